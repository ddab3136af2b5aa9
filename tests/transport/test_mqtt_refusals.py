"""What a link says to passwords, certificates, things that are no broker, and malformed packets."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.transport.conftest import port_of, private_mosquitto, read_packet, server

from hedgerow_transport import (
    Broker,
    BrokerRefused,
    BrokerUnreachable,
    MqttLink,
    Received,
    Will,
    start_broker,
)


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
