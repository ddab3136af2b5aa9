"""Mosquitto with client certificates: who comes in, who may write and read what, and who is out."""

from __future__ import annotations

import queue
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow_transport import (
    BrokerRefused,
    BrokerUnreachable,
    BrokerUrl,
    Connected,
    Disconnected,
    LinkLimits,
    MqttLink,
    Received,
    Topics,
    Will,
    probe_broker,
    url_with_files,
)
from hedgerow_transport.mqtt_connection import _tls_context

FARM = Topics("farm")


class Net:
    """A broker with the keys of two devices, and links to it."""

    def __init__(self, keys: Path, port: int) -> None:
        self.keys, self.port = keys, port
        self._links: list[MqttLink] = []

    def folder(self, who: str) -> Path:
        return self.keys / ("coordinator" if who == "coordinator" else f"devices/{who}")

    def url(self, who: str, host: str = "localhost") -> str:
        folder = self.folder(who)
        files = {"cafile": folder / "ca.pem", "certfile": folder / "cert.pem", "keyfile": folder / "key.pem"}
        return url_with_files(f"mqtts://{host}:{self.port}", **files)

    def open(self, who: str, *filters: str, **options: Any) -> MqttLink:
        limits = LinkLimits(min_backoff_s=0.05, max_backoff_s=0.5)
        name = f"{who}-{len(self._links)}"
        link = MqttLink(self.url(who), client_id=name, filters=filters, limits=limits, **options)
        self._links.append(link)
        link.connect(5.0)
        assert link.events.get(timeout=2.0) == Connected()
        return link

    def close(self) -> None:
        for link in self._links:
            link.close()


@pytest.fixture
def net(
    open_directory_factory: Callable[[], Path], start_service: Callable[..., Any], free_port: int
) -> Iterator[Net]:
    """Run a broker with keys for the devices a and b."""
    directory = open_directory_factory()
    keys = directory / "keys"
    assert main(["keys", "init", str(keys), "--host", "localhost"]) == 0
    for name in ("a", "b"):
        assert main(["keys", "device", name, "--keys", str(keys)]) == 0
    service = start_service(
        "--keys", keys, "--port", free_port, "--bind", "127.0.0.1", "--directory", directory / "broker"
    )
    service.wait_for(rf"clients: mqtts://localhost:{free_port}")
    opened = Net(keys, free_port)
    opened.service = service  # type: ignore[attr-defined]
    yield opened
    opened.close()


def received(link: MqttLink) -> Received:
    event = link.events.get(timeout=5.0)
    assert isinstance(event, Received), event
    return event


def is_quiet(link: MqttLink) -> bool:
    try:
        link.events.get(timeout=0.3)
    except queue.Empty:
        return True
    return False


def test_a_device_cannot_publish_as_another(net: Net) -> None:
    lead = net.open("coordinator", "hedgerow/#")
    forged = Will(topic=FARM.presence("b"), payload=b"b is gone, says a")
    a = net.open("a", will=forged)
    others = [FARM.up("b", kind) for kind in ("offer", "chunk", "decline", "sync")]
    others += [FARM.presence("b"), FARM.manifest, FARM.coordinator, FARM.blob(bytes(16)), FARM.down("b")]
    for topic in others:
        a.publish(topic, b"forged", retain=True, qos=1)
        a.publish(topic, b"forged", qos=0)
    own = [FARM.up("a", "offer"), FARM.up("a", "chunk"), FARM.presence("a"), FARM.need]
    for topic in own:
        a.publish(topic, b"mine", qos=1)
    assert a.flush(5.0)
    assert [(received(lead).topic, b"mine")[0] for _ in own] == own
    # Its last will is judged by the same list.
    a.close(graceful=False)
    assert is_quiet(lead)
    late = net.open("coordinator", "hedgerow/#")
    assert is_quiet(late)


def test_a_device_cannot_read_anothers_topics(net: Net) -> None:
    greedy = (
        "#",
        "hedgerow/#",
        "+/+/+/down/+",
        FARM.down("b"),
        FARM.presence("b"),
        FARM.up("b", "offer"),
        FARM.need,
    )
    a, b = net.open("a", *greedy), net.open("b", FARM.down("b"))
    lead = net.open("coordinator")
    for topic in (FARM.down("b"), FARM.presence("b"), FARM.up("b", "offer"), FARM.need):
        lead.publish(topic, b"not for a", retain=True, qos=1)
    lead.publish(FARM.down("a"), b"for a", qos=1)
    assert lead.flush(5.0)
    # Overlapping filters bring it more than once, which MQTT allows.
    assert {received(a).payload for _ in range(1)} == {b"for a"}
    time.sleep(0.3)
    assert all(event.payload == b"for a" for event in iter_events(a))
    assert received(b).payload == b"not for a"


def iter_events(link: MqttLink) -> Iterator[Received]:
    while True:
        try:
            event = link.events.get_nowait()
        except queue.Empty:
            return
        assert isinstance(event, Received)
        yield event


def test_a_revoked_device_is_out_and_stays_out(net: Net) -> None:
    a, b = net.open("a"), net.open("b", FARM.manifest)
    started = time.monotonic()
    assert main(["keys", "revoke", "a", "--keys", str(net.keys)]) == 0
    lost = a.events.get(timeout=10.0)
    assert isinstance(lost, Disconnected)
    assert time.monotonic() - started < 5
    # The other one was cut off with it, and is back.
    assert isinstance(b.events.get(timeout=10.0), Disconnected)
    assert b.events.get(timeout=10.0) == Connected()
    refusal = a.events.get(timeout=10.0)
    assert isinstance(refusal, Disconnected)
    assert "certificate revoked): this device was shut out; it can join again" in refusal.reason
    assert not a.connected
    facts = probe_broker(net.url("a"))
    assert not facts.reachable
    assert "revoked" in facts.reason
    assert probe_broker(net.url("b")).reachable
    assert re.search("revoked certificates has changed: Mosquitto was started anew", net.service.said)  # type: ignore[attr-defined]


def test_without_a_certificate_of_the_authority_nobody_comes_in(
    net: Net, open_directory_factory: Callable[[], Path]
) -> None:
    foreign = open_directory_factory() / "keys"
    main(["keys", "init", str(foreign), "--host", "localhost"])
    main(["keys", "device", "a", "--keys", str(foreign)])
    ours, theirs = net.folder("a"), foreign / "devices" / "a"
    place = f"mqtts://localhost:{net.port}"
    without = url_with_files(place, cafile=ours / "ca.pem")
    wrong = url_with_files(
        place, cafile=ours / "ca.pem", certfile=theirs / "cert.pem", keyfile=theirs / "key.pem"
    )
    for url, sentence in (
        (without, "want a certificate|certificate required"),
        (wrong, "does not accept this client's certificate|may be revoked, expired, or of another authority"),
    ):
        with pytest.raises((BrokerRefused, BrokerUnreachable), match=sentence):
            MqttLink(url, client_id="x").connect(5.0)


def test_a_broker_with_another_name_or_authority_is_not_trusted(
    net: Net, open_directory_factory: Callable[[], Path]
) -> None:
    foreign = open_directory_factory() / "keys"
    main(["keys", "init", str(foreign), "--host", "localhost"])
    with pytest.raises(BrokerUnreachable, match=r"is not trusted .*--credentials or --ca"):
        MqttLink(f"mqtts://localhost:{net.port}", client_id="x").connect(5.0)
    with pytest.raises(BrokerUnreachable, match="is not trusted"):
        MqttLink(
            url_with_files(f"mqtts://localhost:{net.port}", cafile=foreign / "authority" / "ca.pem"),
            client_id="x",
        ).connect(5.0)
    # The certificate is right, the host is not one of those in it.
    main(["keys", "renew", "--keys", str(net.keys), "--host", "gw.local"])
    again = probe_broker(net.url("a"))
    assert again.reachable
    with pytest.raises(BrokerUnreachable, match=r"is not trusted \(IP address mismatch"):
        MqttLink(net.url("a", host="[::ffff:127.0.0.1]"), client_id="x").connect(5.0)


def test_nothing_older_than_tls_1_2_is_spoken(net: Net) -> None:
    assert _tls_context(BrokerUrl.parse(net.url("a"))).minimum_version == ssl.TLSVersion.TLSv1_2
    assert _tls_context(BrokerUrl.parse(net.url("a"))).check_hostname
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.load_verify_locations(net.folder("a") / "ca.pem")
    old.load_cert_chain(net.folder("a") / "cert.pem", net.folder("a") / "key.pem")
    import socket
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("localhost", net.port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="localhost")


# -- the command line -------------------------------------------------------------------------------------


def test_doctor_looks_at_credentials_and_the_broker_with_them(
    net: Net, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["doctor", "--broker", f"mqtts://localhost:{net.port}", "--credentials", str(net.folder("a"))]
    main(call)
    said = capsys.readouterr().out
    assert re.search(r"ok +credentials +Those of the device 'a', good until 20\d\d-\d\d-\d\d\.", said)
    assert re.search(rf"ok +broker +localhost:{net.port} speaks MQTT 5", said)
    main([*call[:3], "--credentials", str(net.keys)])
    said = capsys.readouterr().out
    assert re.search(r"FAIL +credentials +There are no credentials in", said)
    assert re.search(r"FAIL +broker +The certificate of localhost", said)


def test_doctor_says_when_credentials_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    main(["keys", "init", str(keys)])
    main(["keys", "device", "a", "--keys", str(keys), "--days", "20"])
    call = ["doctor", "--credentials", str(keys / "devices" / "a")]
    now = time.time()
    for later_days, pattern in (
        (0, r"note +credentials .*\n +The credentials in .* expire on 20.*: hedgerow keys token --replace\."),
        (21, r"FAIL +credentials .*\n +The credentials in .* have expired on 20"),
        (-9999, r"note +credentials .*\n +The clock of this machine is behind"),
    ):
        monkeypatch.setattr("hedgerow.diagnosis.time.time", lambda days=later_days: now + 86_400 * days)
        main(call)
        assert re.search(pattern, capsys.readouterr().out), later_days


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--broker", "mqtt://gw", "--ca", "CA"], "uses no TLS: write mqtts://"),
        (["--broker", "mqtts://gw", "--key", "CA"], "--key needs the certificate"),
        (["--broker", "mqtts://gw", "--ca", "/no/such"], "/no/such, is not a file"),
        (["--broker", "mqtts://gw", "--credentials", "NEW"], "there are no credentials in"),
        (
            ["--broker", "mqtts://gw", "--credentials", "DEVICE", "--name", "c"],
            "but the credentials are for a",
        ),
        (["--broker", "mqtts://gw", "--credentials", "COORDINATOR"], "are for a coordinator, not a device"),
    ],
)
def test_wrong_credentials_of_a_client_are_a_sentence(
    tmp_path: Path, task: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    keys = tmp_path / "keys"
    main(["keys", "init", str(keys)])
    main(["keys", "device", "a", "--keys", str(keys)])
    places = {
        "CA": keys / "authority" / "ca.pem",
        "NEW": tmp_path / "new",
        "DEVICE": keys / "devices" / "a",
        "COORDINATOR": keys / "coordinator",
    }
    capsys.readouterr()
    call = [str(places.get(word, word)) for word in arguments]
    assert main(["client", str(task), "--state-dir", str(tmp_path / "state"), *call]) == ExitCode.USAGE
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
