"""A link over a real broker: order, limits, wills and farewells, traffic."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest
from tests.transport.conftest import FAST, packet_of, read_packet, server

from hedgerow_transport import (
    Broker,
    Connected,
    Disconnected,
    LinkClosed,
    LinkLimits,
    LinkOverflow,
    MqttLink,
    PacketTooLarge,
    Received,
    TopicError,
    Will,
    publish_bytes,
)


def test_messages_go_from_link_to_link(broker: Broker, links: Any) -> None:
    a = links.open(broker.url, "a1")
    b = links.open(broker.url, "b1", "t1/+", "t1/deep/#")
    a.publish("t1/x", b"\x00\xff", qos=1)
    a.publish("t1/deep/er/x", b"")
    a.publish("t1/not/x", b"no")
    a.publish("t1/y", b"end")
    assert [links.received(b) for _ in range(3)] == [
        Received("t1/x", b"\x00\xff"),
        Received("t1/deep/er/x", b""),
        Received("t1/y", b"end"),
    ]
    assert a.connected
    assert a.max_packet_bytes == 1_114_112


def test_retained_messages_come_after_connected(broker: Broker, links: Any) -> None:
    a = links.open(broker.url, "a2")
    for number in range(20):
        a.publish(f"t2/{number}", b"kept", retain=True, qos=1)
    assert a.flush(5.0)
    b = links.open(broker.url, "b2", "t2/#")  # asserts that Connected is first
    assert {links.received(b).topic for _ in range(20)} == {f"t2/{number}" for number in range(20)}
    c = links.open(broker.url, "c2")
    c.subscribe(["t2/7"])
    assert links.received(c) == Received("t2/7", b"kept", True)
    a.publish("t2/7", b"news", retain=True)
    assert links.received(c) == Received("t2/7", b"news", False)
    c.unsubscribe(["t2/7"])
    c.publish("t2/7", b"unheard")  # by itself, so that the broker sees the order
    assert links.is_quiet(c)


def test_a_thousand_qos_1_messages_arrive_in_order(broker: Broker, links: Any) -> None:
    a, b = links.open(broker.url, "a3"), links.open(broker.url, "b3", "t3")
    for number in range(1000):
        a.publish("t3", str(number).encode(), qos=1)
    assert a.flush(10.0)
    assert [links.received(b).payload for _ in range(1000)] == [
        str(number).encode() for number in range(1000)
    ]


def test_many_threads_publish_large_messages(broker: Broker, links: Any) -> None:
    a, b = links.open(broker.url, "a4"), links.open(broker.url, "b4", "t4/+")

    def publish(name: int) -> None:
        for number in range(20):
            a.publish(f"t4/{name}", bytes([number]) * 48_000, qos=name % 2)

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    got: dict[str, list[bytes]] = {}
    for _ in range(80):
        received = links.received(b)
        got.setdefault(received.topic, []).append(received.payload)
    assert got == {f"t4/{name}": [bytes([number]) * 48_000 for number in range(20)] for name in range(4)}


def test_the_will_fires_on_a_cut_and_not_on_a_farewell(broker: Broker, links: Any) -> None:
    watcher = links.open(broker.url, "w5", "t5/#")
    for name, graceful in (("cut", False), ("farewell", True)):
        will = Will(topic=f"t5/{name}", payload=b"gone")
        link = links.open(broker.url, name, will=will)
        link.close(graceful=graceful)
        assert link.events.get(timeout=1.0) == Disconnected("closed")
    assert links.received(watcher) == Received("t5/cut", b"gone")
    assert links.is_quiet(watcher)


def test_a_farewell_arrives_after_what_was_queued_even_with_much_unread(links: Any) -> None:
    received: list[bytes] = []
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        try:
            read_packet(connection)
            connection.sendall(b"\x20\x02\x00\x00")
            # The reader at the other end sleeps: this stays unread in its socket, and an abrupt close would
            # be a reset that throws away what is still on its way here.
            connection.sendall(packet_of(b"t6", bytes(48_000)) * 10)
            time.sleep(0.3)
            while part := connection.recv(4096):
                received.append(part)
        finally:
            ended.set()

    with server(answer) as url:
        limits = LinkLimits(max_event_bytes=1)
        link = links.open(url + "?protocol=3.1.1", "a6", limits=limits)
        links.until(link, Received)
        for _ in range(5):
            link.publish("t6", bytes(48_000))
        link.close()
        assert ended.wait(3.0)
    assert len(b"".join(received)) == 5 * publish_bytes("t6", bytes(48_000)) + 2
    assert received[-1][-2:] == b"\xe0\x00"


def test_a_closed_link_refuses_and_closes_again(broker: Broker, links: Any) -> None:
    link = links.open(broker.url, "a7")
    link.close()
    link.close()
    with pytest.raises(LinkClosed):
        link.publish("x", b"")
    with pytest.raises(LinkClosed):
        link.connect()


def test_a_subscription_made_before_connect_counts(broker: Broker, links: Any) -> None:
    link = MqttLink(broker.url, client_id="a28", limits=FAST)
    link.subscribe(["t28/a", "t28/b"])
    link.unsubscribe(["t28/b"])
    link.connect(5.0)
    assert link.events.get(timeout=1.0) == Connected()
    link.publish("t28/b", b"unwanted")
    link.publish("t28/a", b"wanted")
    assert links.received(link) == Received("t28/a", b"wanted")
    assert links.is_quiet(link)
    link.close()


def test_at_most_eight_messages_are_unacknowledged(links: Any) -> None:
    got: list[bytes] = []
    go_on = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(b"\x20\x02\x00\x00")
        connection.settimeout(0.4)
        with contextlib.suppress(TimeoutError):
            while len(got) < 20:
                got.append(read_packet(connection))
        connection.settimeout(5.0)
        go_on.wait(5.0)

    with server(answer) as url:
        link = links.open(url + "?protocol=3.1.1", "a13")
        for number in range(20):
            link.publish("t", bytes([number]), qos=1)
        assert not link.flush(0.3)
        assert len(got) == 8
        link.close(graceful=False)
        go_on.set()


def test_the_queue_is_bounded_and_publish_never_blocks(links: Any) -> None:
    go_on = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(b"\x20\x02\x00\x00")
        go_on.wait(5.0)  # reads nothing more

    with server(answer) as url:
        limits = LinkLimits(max_queued_bytes=200_000)
        link = links.open(url + "?protocol=3.1.1", "a14", limits=limits)
        started = time.monotonic()
        with pytest.raises(LinkOverflow) as caught:  # noqa: PT012 -- how many fit depends on the socket
            for _ in range(1000):
                link.publish("t", bytes(48_000))
        assert time.monotonic() - started < 2.0
        assert 150_000 < caught.value.queued_bytes <= 200_000
        go_on.set()
        link.close(graceful=False)


def test_too_large_is_refused_before_it_is_sent(broker: Broker, links: Any) -> None:
    link = links.open(broker.url, "a15", "t15")
    with pytest.raises(PacketTooLarge) as caught:
        link.publish("t15", bytes(1_114_112), qos=1)
    assert caught.value.max_packet_bytes == 1_114_112
    largest = 1_114_112 - publish_bytes("t15", b"", 1) - 3
    link.publish("t15", bytes(largest), qos=1)
    assert len(links.received(link).payload) == largest
    own = links.open(broker.url, "b15", limits=LinkLimits(max_packet_bytes=1000))
    with pytest.raises(PacketTooLarge):
        own.publish("t15", bytes(1000))


def test_a_sleeping_reader_does_not_fill_the_memory(broker: Broker, links: Any) -> None:
    sleeper = links.open(broker.url, "b16", "t16", limits=LinkLimits(max_event_bytes=500_000))
    sender = links.open(broker.url, "a16")
    for _ in range(400):
        sender.publish("t16", bytes(48_000))
    assert sender.flush(10.0)
    time.sleep(0.3)
    assert sleeper.events.num_bytes < 700_000
    assert links.received(sleeper).payload == bytes(48_000)


def test_wrong_arguments_are_refused_at_once(broker: Broker, links: Any) -> None:
    link = links.open(broker.url, "a17")
    for topic in ("", "a/#", "+", "a\0b"):
        with pytest.raises(TopicError):
            link.publish(topic, b"")
    with pytest.raises(TopicError):
        link.subscribe(["a#"])
    with pytest.raises(ValueError, match="qos 2: use 0 or 1"):
        link.publish("a", b"", qos=2)
    link.publish("still/alive", b"", qos=1)
    assert link.flush(2.0)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("payload_bytes", [0, 1, 90, 200, 17_000, 48 << 10])
def test_traffic_is_what_stands_on_the_wire(qos: int, payload_bytes: int, links: Any) -> None:
    topic = "hedgerow/1/farm/up/pi-3/offer"
    captured: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(b"\x20\x02\x00\x00")
        packet = read_packet(connection)
        captured.append(packet)
        if qos:
            start = packet.index(topic.encode()) + len(topic)
            connection.sendall(b"\x40\x02" + packet[start : start + 2])
        connection.sendall(packet)  # and back again: a PUBLISH looks the same in both directions
        read_packet(connection)

    with server(answer) as url:
        link = links.open(url + "?protocol=3.1.1", "pi-3")
        link.publish(topic, bytes(payload_bytes), qos=qos)
        assert links.received(link).payload == bytes(payload_bytes)
        counted = {"offer": {"messages": 1, "bytes": len(captured[0])}}
        assert link.traffic.snapshot() == {"sent": counted, "received": counted}
        assert publish_bytes(topic, bytes(payload_bytes), qos) == len(captured[0])
        link.close(graceful=False)


def test_what_waits_to_be_read_has_been_heard(links, broker):
    link = links.open(broker.url, "listener", "quiet")
    time.sleep(0.3)
    silent_since = link.heard_at
    assert silent_since < time.monotonic() - 0.2
    assert link.heard_at == silent_since
    links.open(broker.url, "speaker").publish("quiet", b"word")
    give_up_at = time.monotonic() + 5
    while link.events.empty() and time.monotonic() < give_up_at:
        time.sleep(0.01)
    time.sleep(0.3)
    # It came some time ago, and nobody has taken it yet.
    assert link.heard_at > time.monotonic() - 0.1
    assert links.received(link).payload == b"word"
    assert silent_since < link.heard_at < time.monotonic() - 0.2
