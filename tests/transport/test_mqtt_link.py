"""`MqttLink` with a real Mosquitto, with amqtt, and with servers that only pretend."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow_transport import (
    Broker,
    BrokerRefused,
    BrokerUnreachable,
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
    start_broker,
)

FAST = LinkLimits(min_backoff_s=0.02, max_backoff_s=0.2)


def port_of(broker: Broker) -> int:
    return int(broker.url.rpartition(":")[2])


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve connections one after the other with a function; yields the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(5.0)
                        answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def read_packet(connection: socket.socket) -> bytes:
    """Read one MQTT packet, header included; empty at the end."""
    head = connection.recv(1)
    length, shift = 0, 0
    while head:
        digit = connection.recv(1)
        head += digit
        length |= (digit[0] & 127) << shift
        shift += 7
        if digit[0] < 128:
            break
    while length:
        part = connection.recv(length)
        head += part
        length -= len(part)
    return head


# Between two links


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


# Farewell, will, takeover


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


def test_takeover_is_fatal_when_the_broker_says_so(links: Any) -> None:
    connections: list[int] = []

    def answer(connection: socket.socket) -> None:
        connections.append(1)
        read_packet(connection)
        connection.sendall(b"\x20\x03\x00\x00\x00")
        time.sleep(0.1)
        connection.sendall(b"\xe0\x01\x8e")

    with server(answer) as url:
        link = links.open(url, "a8")
        expected = Disconnected("another client with the same name has connected", fatal=True)
        assert link.events.get(timeout=3.0) == expected
        assert links.is_quiet(link, for_s=0.5)
        link.publish("t8", b"into the void")
        assert len(connections) == 1
        link.connect(5.0)  # on purpose: now it is the other's turn
        assert link.events.get(timeout=1.0) == Connected()


@pytest.mark.parametrize("version", ["", "?protocol=3.1.1"])
def test_two_clients_of_one_name_do_not_fight_for_ever(
    version: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow_transport.link_thread.MAX_SHORT_LIVED", 3)
    pair = [MqttLink(broker.url + version, client_id="same", limits=FAST) for _ in range(2)]
    try:
        for link in pair:
            link.connect(5.0)
        give_up_at = time.monotonic() + 10.0
        fatal: list[str] = []
        while not fatal and time.monotonic() < give_up_at:
            for link in pair:
                while not link.events.empty():
                    event = link.events.get()
                    if isinstance(event, Disconnected) and event.fatal:
                        fatal.append(event.reason)
            time.sleep(0.02)
        assert "probably another client has the same name" in fatal[0]
    finally:
        for link in pair:
            link.close()


# Loss and return


def test_a_killed_broker_comes_back_and_so_do_subscriptions(
    mosquitto: Callable[..., Broker], tmp_path: Path, links: Any
) -> None:
    with mosquitto(tmp_path) as broker:
        a, b = links.open(broker.url, "a9"), links.open(broker.url, "b9", "t9/first")
        b.subscribe(["t9/added"])
        b.publish("t9/added", b"1", qos=1)
        assert links.received(b).payload == b"1"
        os.kill(broker.pid, signal.SIGKILL)
        for link in (a, b):
            lost = links.until(link, Disconnected)
            assert not lost.fatal
            assert "the connection was lost" in lost.reason
        a.publish("t9/first", b"dropped")
        a.publish("t9/first", b"waits", qos=1)
        assert not a.flush(0.1)
        port = port_of(broker)
    with mosquitto(tmp_path, port=port):
        links.until(b, Connected)
        links.until(a, Connected)
        assert a.flush(5.0)
        a.publish("t9/added", b"2", qos=1)
        got = [links.received(b).payload for _ in range(1)]
        while got[-1] != b"2":
            got.append(links.received(b).payload)
        # The message that waited may have come before b was back; the dropped one must never come.
        assert got in ([b"2"], [b"waits", b"2"])
        assert b.connected


def test_a_broker_that_stops_in_order_says_so(
    mosquitto: Callable[..., Broker], tmp_path: Path, links: Any
) -> None:
    broker = mosquitto(tmp_path)
    link = links.open(broker.url, "a10")
    broker.close()
    lost = links.until(link, Disconnected)
    assert not lost.fatal
    assert lost.reason in ("the broker is shutting down", "the connection was lost (Unspecified error)")


def test_close_while_the_broker_is_away_is_quick(
    mosquitto: Callable[..., Broker], tmp_path: Path, links: Any
) -> None:
    broker = mosquitto(tmp_path)
    link = links.open(broker.url, "a11", limits=LinkLimits(min_backoff_s=30.0))
    broker.close()
    links.until(link, Disconnected)
    started = time.monotonic()
    link.close()
    assert time.monotonic() - started < 1.0


def test_unacknowledged_messages_are_sent_again(links: Any) -> None:
    seen: list[list[bytes]] = []

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(b"\x20\x02\x00\x00")
        packets: list[bytes] = []
        seen.append(packets)
        while len(packets) < 3 and (packet := read_packet(connection)):
            packets.append(packet)
            if len(seen) > 1 or len(packets) == 1:  # at first only one of three is acknowledged
                topic_bytes = packets[-1][3]
                connection.sendall(b"\x40\x02" + packets[-1][4 + topic_bytes : 6 + topic_bytes])
        if len(seen) > 1:
            read_packet(connection)

    with server(answer) as url:
        link = links.open(url + "?protocol=3.1.1", "a12")
        for number in range(3):
            link.publish("t", bytes([number]), qos=1)
        links.until(link, Connected)
        link.publish("t", b"\x03", qos=1)
        assert link.flush(3.0)
        assert [[packet[-1] for packet in packets] for packets in seen] == [[0, 1, 2], [1, 2, 3]]
        link.close(graceful=False)


def test_a_connection_reset_while_writing_is_an_ordinary_loss(
    links: Any, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[int] = []

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        served.append(1)
        connection.sendall(b"\x20\x02\x00\x00")
        connection.recv(100_000)
        # With bytes unread a close is a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    with server(answer) as url:
        link = links.open(url + "?protocol=3.1.1", "a26")
        for number in range(3):
            for _ in range(100):
                link.publish("t", bytes(48_000))
            lost = links.until(link, Disconnected)
            assert "the connection was lost" in lost.reason
            assert link.flush(0.0)  # QoS 0 is dropped with the connection
            links.until(link, Connected)
            assert len(served) >= number + 2
        link.close(graceful=False)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_message_that_breaks_every_connection_is_given_up(
    links: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(b"\x20\x02\x00\x00")
        while packet := read_packet(connection):
            seen.append(packet[5:6] + packet[-1:])
            if packet[-1:] == b"!":
                return
            connection.sendall(b"\x40\x02" + packet[5:7])

    with server(answer) as url:
        link = links.open(url + "?protocol=3.1.1", "a27")
        link.publish("t", b"!", qos=1)
        for _ in range(20):
            link.publish("t", b"?", qos=1)
        assert link.flush(8.0)
        assert [packet[-1:] for packet in seen] == [b"!"] * 5 + [b"?"] * 20
        link.close(graceful=False)
    assert "a message for t broke 5 links: dropped" in caplog.text


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


# Limits


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


# Traffic


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


# What cannot be reached, what refuses, and what lies


def test_password_is_checked(tmp_path: Path, links: Any) -> None:
    passwords = tmp_path / "passwords"
    # Of the user "pi" with the password "right", as mosquitto_passwd writes it (PBKDF2-SHA512, 101 rounds).
    passwords.write_text(password_line("pi", "right"))
    passwords.chmod(0o644)
    with private_mosquitto(tmp_path, f"allow_anonymous false\npassword_file {passwords}\n") as port:
        place = f"127.0.0.1:{port}"
        for user, who in (("pi:wrong@", "user 'pi'"), ("", "a client without a user name")):
            with pytest.raises(BrokerRefused) as caught:
                MqttLink(f"mqtt://{user}{place}", client_id="a18").connect(3.0)
            assert str(caught.value) == (
                f"the broker at {place} does not let {who} in: check user and password in the broker URL"
            )
        links.open(f"mqtt://pi:right@{place}", "b18")


def test_tls(tmp_path: Path, links: Any, broker: Broker) -> None:
    make_certificate(tmp_path)
    options = f"certfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\nallow_anonymous true\n"
    with private_mosquitto(tmp_path, options) as port:
        ca = f"?cafile={tmp_path}/cert.pem"
        link = links.open(f"mqtts://localhost:{port}{ca}", "a19", "t19")
        link.publish("t19", bytes(300_000), qos=1)
        assert len(links.received(link).payload) == 300_000
        for url, sentence in (
            (f"mqtts://localhost:{port}", "the certificate of localhost:.* is not trusted"),
            (f"mqtts://127.0.0.1:{port}{ca}", "the certificate of 127.0.0.1:.* is not trusted"),
            (f"mqtt://localhost:{port}", "."),
            (f"mqtts://127.0.0.1:{port_of(broker)}{ca}", "does not speak TLS|ended the TLS handshake"),
        ):
            with pytest.raises(BrokerUnreachable, match=sentence):
                MqttLink(url, client_id="b19").connect(2.0)


def test_a_connect_that_failed_can_be_tried_again(mosquitto: Callable[..., Broker], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    link = MqttLink(f"mqtt://127.0.0.1:{port}", client_id="a20")
    link.publish("early", b"dropped")
    for _ in range(2):
        with pytest.raises(BrokerUnreachable, match="nothing listens at"):
            link.connect(2.0)
    with mosquitto(tmp_path, port=port):
        link.connect(5.0)
        link.connect(5.0)
        assert link.events.get(timeout=1.0) == Connected()
        link.close()
    assert link.events.get(timeout=1.0) == Disconnected("closed")
    assert link.events.empty()


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (HTTP, "answers, but not as an MQTT broker: is it the right port?"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "answers, but not as an MQTT broker"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "speaks TLS: use mqtts://"),
        (b"", "closed the connection without an answer"),
        (b"\x20", "without an answer"),
        (b"\x20\x02\x00", "without an answer"),
        (b"\x20\x00", "without an answer"),
        (b"\x20\xff\xff\xff\xff\xff", "without an answer"),
    ],
)
def test_what_is_no_broker_is_told(reply: bytes, sentence: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(reply)

    with server(answer) as url, pytest.raises(BrokerUnreachable, match=sentence.replace("?", r"\?")):
        MqttLink(url, client_id="a21").connect(2.0)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (2, "does not accept this client's name"),
        (3, "refused the connection: Server unavailable"),
        (5, "does not let"),
    ],
)
def test_refusals_of_mqtt_3_are_told(code: int, sentence: str) -> None:
    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(bytes([0x20, 2, 0, code]))

    with server(answer) as url, pytest.raises(BrokerRefused, match=sentence):
        MqttLink(url + "?protocol=3.1.1", client_id="a22").connect(2.0)


def test_a_refused_subscription_is_told() -> None:
    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connection.sendall(b"\x20\x02\x00\x00")
        packet = read_packet(connection)
        connection.sendall(b"\x90\x03" + packet[2:4] + b"\x80")
        read_packet(connection)

    with server(answer) as url, pytest.raises(BrokerRefused, match="does not let a23 subscribe"):
        MqttLink(url + "?protocol=3.1.1", client_id="a23", filters=["x"]).connect(2.0)


def packet_of(topic: bytes, payload: bytes) -> bytes:
    """Return a PUBLISH packet of QoS 0 with 3 bytes of remaining length."""
    length = 2 + len(topic) + len(payload)
    digits = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
    return b"\x30" + digits + len(topic).to_bytes(2, "big") + topic + payload


def packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


MALFORMED = {
    "topic longer than the packet": packet(0x30, b"\x00\xff" + b"a"),
    "topic not UTF-8": packet(0x30, b"\x00\x02\xff\xfe" + b"x"),
    "empty publish": packet(0x30, b""),
    "empty topic": packet(0x30, b"\x00\x00"),
    "qos 3": packet(0x36, b"\x00\x01a\x00\x01"),
    "unknown type": packet(0xF0, b""),
    "suback of nothing": packet(0x90, b""),
    "puback of nothing": packet(0x40, b""),
    "puback of a stranger": packet(0x40, b"\x12\x34"),
    "endless length": b"\x30\xff\xff\xff\xff\xff\xff",
    "second connack": packet(0x20, b"\x00\x00"),
    "random": os.urandom(64),
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_packets_never_kill_the_thread(bad: bytes, links: Any) -> None:
    connections: list[int] = []

    def answer(connection: socket.socket) -> None:
        read_packet(connection)
        connections.append(1)
        connection.sendall(b"\x20\x02\x00\x00")
        if len(connections) == 1:
            connection.sendall(bad)
        time.sleep(0.05)
        connection.sendall(packet(0x30, b"\x00\x02ok" + b"good"))
        if len(connections) == 1:
            connection.shutdown(socket.SHUT_WR)
        connection.recv(1000)

    with server(answer) as url:
        link = links.open(url + "?protocol=3.1.1", "a24")
        # At the latest on the second connection the good message gets through.
        while (received := links.until(link, Received, timeout_s=5.0)).topic != "ok":
            pass
        assert received.payload == b"good"
        link.close(graceful=False)


# The embedded broker


def test_embedded_broker_serves_links(tmp_path: Path, links: Any) -> None:
    with start_broker(directory=tmp_path, prefer="embedded") as broker:
        watcher = links.open(broker.url, "w25", "t25/#")
        # Without the hint in its URL the link must find out that MQTT 5 is not spoken here.
        plain_url = broker.url.partition("?")[0]
        link = links.open(plain_url, "a25", "t25/x", will=Will(topic="t25/will", payload=b"gone"))
        link.publish("t25/x", bytes(48 << 10), qos=1)
        for reader in (watcher, link):
            received = links.received(reader)
            assert (received.topic, len(received.payload)) == ("t25/x", 48 << 10)
        link.close(graceful=False)
        assert links.received(watcher) == Received("t25/will", b"gone")


@contextlib.contextmanager
def private_mosquitto(directory: Path, options: str) -> Iterator[int]:
    """Run Mosquitto with a configuration of the test's own; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = directory / "test.conf"
    config.write_text(f"user root\nlistener {port} 127.0.0.1\n{options}")
    from hedgerow_transport.broker import find_mosquitto

    program = find_mosquitto()
    assert program is not None, "Mosquitto is missing: apt-get install mosquitto"
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(5.0)


def password_line(user: str, password: str) -> str:
    import base64
    import hashlib

    salt = b"saltsaltsalt"
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


def make_certificate(directory: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    files = ["-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem"]
    name = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *files, *name], check=True, capture_output=True)
    ssl.create_default_context(cafile=f"{directory}/cert.pem")


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
