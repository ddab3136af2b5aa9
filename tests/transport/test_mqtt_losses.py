"""A link whose connection or broker goes away, and comes back."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.transport.conftest import FAST, port_of, read_packet, server

from hedgerow_transport import (
    Broker,
    BrokerUnreachable,
    Connected,
    Disconnected,
    LinkLimits,
    MqttLink,
)


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


def test_a_killed_broker_comes_back_and_so_do_subscriptions(
    mosquitto: Callable[..., Broker], tmp_path: Path, links: Any
) -> None:
    with mosquitto(tmp_path) as broker:
        a, b = links.open(broker.url, "a9"), links.open(broker.url, "b9", "t9/first")
        b.subscribe(["t9/added"])
        b.publish("t9/added", b"1", qos=1)
        assert links.received(b).payload == b"1"
        # Received is not yet acknowledged: a broker killed in between gets b's "1" again, as QoS 1 says.
        assert b.flush(5.0)
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
