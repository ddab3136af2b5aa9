"""What Mosquitto is told, by version, and whom its access list lets do what."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgerow_transport import (
    BrokerError,
    BrokerRefused,
    BrokerSettingError,
    MosquittoConfig,
    TlsFiles,
    Topics,
    acl_text,
    find_mosquitto,
    mosquitto_version,
    run_mosquitto,
)

TLS = TlsFiles(certfile=Path("/k/cert.pem"), keyfile=Path("/k/key.pem"))
MUTUAL = replace(TLS, cafile=Path("/k/ca.pem"), crlfile=Path("/k/crl.pem"))
FARM = Topics("farm")


def lines(config: MosquittoConfig, *version: int) -> list[str]:
    return config.render((version[0], version[1], version[2])).splitlines()


def test_a_plain_configuration_is_for_this_machine_only_and_keeps_nothing() -> None:
    text = lines(MosquittoConfig(port=1883), 2, 0, 11)
    assert text[0] == "# Written by Hedgerow for Mosquitto 2.0.11."
    for line in (
        "listener 1883 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
        "max_packet_size 1114112",
        "max_queued_messages 1000",
        "max_inflight_messages 20",
        "set_tcp_nodelay true",
    ):
        assert text.count(line) == 1
    assert not any(word in line for line in text for word in ("cafile", "acl_file", "tls_version"))


def test_certificates_make_users_and_nobody_else_comes_in() -> None:
    config = MosquittoConfig(
        port=8883, bind=None, tls=MUTUAL, acl_file=Path("/k/acl"), persistence=Path("/d"), max_connections=9
    )
    text = lines(config, 2, 0, 11)
    for line in (
        "listener 8883",
        "max_connections 9",
        "certfile /k/cert.pem",
        "keyfile /k/key.pem",
        "cafile /k/ca.pem",
        "crlfile /k/crl.pem",
        "require_certificate true",
        "use_identity_as_username true",
        "tls_version tlsv1.2",
        "allow_anonymous false",
        "acl_file /k/acl",
        "persistence true",
        "persistence_location /d/",
    ):
        assert text.count(line) == 1, line
    # TLS alone encrypts and lets anybody in.
    plain = lines(MosquittoConfig(port=8883, tls=TLS), 2, 0, 11)
    assert "allow_anonymous true" in plain
    assert "require_certificate true" not in plain


def test_versions_differ_in_what_tls_version_means() -> None:
    config = MosquittoConfig(port=8883, tls=TLS)
    assert "# 1.6 speaks this version only." in lines(config, 1, 6, 15)
    assert "# 1.6 speaks this version only." not in lines(config, 2, 1, 2)
    for wrong in ((1, 5, 11), (3, 0, 0)):
        with pytest.raises(BrokerError, match=r"is not known here: use one from 1\.6 to 2\.x"):
            config.render(wrong)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"port": 0}, "port must be from 1 to 65535, not 0"),
        ({"max_packet_bytes": 100}, "max_packet_bytes must be from 4096 to 268435455, not 100"),
        ({"max_queued_messages": 0}, "max_queued_messages must be"),
        ({"max_inflight_messages": 70_000}, "max_inflight_messages must be"),
        ({"max_connections": -1}, "max_connections must be"),
    ],
)
def test_numbers_out_of_range_are_named(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(BrokerSettingError, match=sentence):
        MosquittoConfig(**{"port": 1883, **settings})


def test_a_path_cannot_smuggle_in_a_line() -> None:
    config = MosquittoConfig(
        port=1883, acl_file=Path("/k/acl\nallow_anonymous true"), password_file=Path("/p")
    )
    with pytest.raises(BrokerSettingError, match="cannot stand in Mosquitto's configuration"):
        config.render((2, 0, 11))
    with pytest.raises(BrokerSettingError, match="cannot be a user"):
        acl_text(coordinator="x\ntopic readwrite #")
    with pytest.raises(BrokerSettingError, match="needs the authority's certificate"):
        replace(TLS, crlfile=Path("/crl"))


def test_the_installed_mosquitto_tells_its_version(tmp_path: Path) -> None:
    program = find_mosquitto()
    assert program is not None, "Mosquitto is missing: apt-get install mosquitto"
    assert (1, 6, 0) <= mosquitto_version(program) < (3, 0, 0)
    stranger = tmp_path / "stranger"
    stranger.write_text("#!/bin/sh\necho 'mosquitto version 1.4.15'\n")
    stranger.chmod(0o755)
    with pytest.raises(BrokerError, match=r"Mosquitto 1\.4\.15 is not known here"):
        mosquitto_version(str(stranger))
    stranger.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(BrokerError, match="does not tell its version"):
        mosquitto_version(str(stranger))


# -- with users, by a real Mosquitto ----------------------------------------------------------------------


def password_line(user: str) -> str:
    salt = b"saltsaltsalt"
    # Salted SHA-512, which every version reads; 1.6 knows no other.
    key = hashlib.sha512(b"secret" + salt).digest()
    return f"{user}:$6${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


@pytest.fixture(scope="module")
def guarded(open_directory_factory: Any) -> Iterator[str]:
    """Run a broker with the access list and the users coordinator, a and b; yields host and port."""
    directory: Path = open_directory_factory()
    (directory / "acl").write_text(acl_text(coordinator="coordinator"))
    (directory / "passwords").write_text("".join(map(password_line, ("coordinator", "a", "b"))))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = MosquittoConfig(
        port=port,
        acl_file=directory / "acl",
        password_file=directory / "passwords",
        persistence=directory / "r",
    )
    with run_mosquitto(config, directory=directory) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{port}"
        yield f"127.0.0.1:{port}"


def test_a_device_writes_its_own_topics_only(guarded: str, links: Any) -> None:
    lead = links.open(f"mqtt://coordinator:secret@{guarded}", "lead", *FARM.coordinator_filters())
    a = links.open(f"mqtt://a:secret@{guarded}", "a")
    forbidden = [
        FARM.up("b", "offer"),
        FARM.up("b", "chunk"),
        FARM.presence("b"),
        FARM.down("a"),
        FARM.manifest,
        FARM.coordinator,
        FARM.delivery,
        FARM.blob(bytes(16)),
    ]
    watching = links.open(f"mqtt://coordinator:secret@{guarded}", "watch", "hedgerow/#")
    for topic in forbidden:
        a.publish(topic, b"forged", retain=True, qos=1)
    own = [FARM.up("a", "offer"), FARM.up("a", "report"), FARM.presence("a"), FARM.need]
    for topic in own:
        a.publish(topic, b"mine", qos=1)
    assert a.flush(5.0)
    assert [links.received(watching).topic for _ in own] == own
    assert links.is_quiet(watching)
    assert {links.received(lead).topic for _ in own} == set(own)


def test_a_device_reads_what_it_needs_only(guarded: str, links: Any) -> None:
    everything = ("hedgerow/#", FARM.down("b"), FARM.presence("b"))
    a = links.open(f"mqtt://a:secret@{guarded}", "a", *everything)
    lead = links.open(f"mqtt://coordinator:secret@{guarded}", "lead")
    for topic in (FARM.down("b"), FARM.presence("b"), FARM.up("b", "offer"), FARM.need):
        lead.publish(topic, b"not for a", qos=1)
    for_all = (FARM.manifest, FARM.coordinator, FARM.delivery, FARM.blob(bytes(16)))
    for topic in (*for_all, FARM.down("a"), FARM.presence("a")):
        lead.publish(topic, b"for a", qos=1)
    assert lead.flush(5.0)
    found = [links.received(a) for _ in range(6)]
    assert {message.payload for message in found} == {b"for a"}
    assert links.is_quiet(a)


def test_without_a_password_nobody_comes_in(guarded: str, links: Any) -> None:
    with pytest.raises(BrokerRefused):
        links.open(f"mqtt://{guarded}", "x")


def test_retained_messages_survive_a_restart(open_directory_factory: Any, links: Any) -> None:
    directory: Path = open_directory_factory()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = MosquittoConfig(port=port, persistence=directory / "retained")
    with run_mosquitto(config, directory=directory) as broker:
        lead = links.open(broker.url, "lead")
        lead.publish(FARM.manifest, b"kept", retain=True, qos=1)
        assert lead.flush(5.0)
    with run_mosquitto(config, directory=directory) as broker:
        assert links.received(links.open(broker.url, "late", FARM.manifest)).payload == b"kept"
