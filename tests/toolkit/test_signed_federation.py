"""Signed messages between real processes over a real Mosquitto that lets everybody in: the attacker, too."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedgerow.main import main
from hedgerow_coordinator import RunStore
from hedgerow_transport import (
    Broker,
    Connected,
    Credentials,
    Guard,
    MqttLink,
    Offer,
    Presence,
    Received,
    Topics,
    decode_message,
    encode_chunk,
)
from hedgerow_transport.envelope import open_envelope

# Torch is started several times, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)


class Process:
    """A `hedgerow` command, with what it says in a file."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hedgerow.main", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str, *, timeout_s: float = 60.0) -> None:
        give_up_at = time.monotonic() + timeout_s
        while re.search(pattern, self.said) is None:
            assert time.monotonic() < give_up_at, f"no {pattern!r} in:\n{self.said}"
            time.sleep(0.05)


class Place:
    """Keys for the devices a and b, a plan of two rounds for two clients, and processes."""

    def __init__(self, folder: Path, *, broker: Broker, plan: Path, task: Path) -> None:
        self.folder, self.broker, self.task = folder, broker, task
        self.keys = folder / "keys"
        self.plan = folder / "plan" / "plan.toml"
        shutil.copytree(plan, self.plan.parent)
        self.namespace = re.sub(r"[^a-z0-9]", "", folder.name.lower())[-32:]
        self.edit("rounds = 3", "rounds = 2")
        self.edit('namespace = "default"', f'namespace = "{self.namespace}"')
        self.topics = Topics(self.namespace)
        self.run_dir = folder / "run"
        (folder / "data").mkdir()
        self._processes: list[Process] = []
        assert main(["keys", "init", str(self.keys), "--host", "localhost"]) == 0
        for name in ("a", "b"):
            assert main(["keys", "device", name, "--keys", str(self.keys)]) == 0

    def edit(self, old: str, new: str) -> None:
        text = self.plan.read_text()
        assert text.count(old) == 1, old
        self.plan.write_text(text.replace(old, new))

    def coordinator(self, *, signed: bool = True) -> Process:
        call = ("coordinator", self.plan, "--broker", self.broker.url, "--run-dir", self.run_dir)
        return self._start("coordinator", *call, *self._credentials("coordinator", signed=signed))

    def client(self, folder: str, *, name: str = "", signed: bool = True) -> Process:
        call = ("client", self.task, "--broker", self.broker.url, "--data", self.folder / "data")
        names = ("--name", name or folder, "--namespace", self.namespace, "--state-dir", self.folder / folder)
        credentials = self._credentials(f"devices/{folder}", signed=signed)
        return self._start(folder, *call, *names, "--threads", 1, "--once", *credentials)

    def _credentials(self, folder: str, *, signed: bool) -> tuple[object, ...]:
        return ("--credentials", self.keys / folder) if signed else ()

    def _start(self, name: str, *arguments: object) -> Process:
        log = self.folder / f"{name}-{len(self._processes)}.log"
        self._processes.append(Process(log, *arguments))
        return self._processes[-1]

    def close(self) -> None:
        for process in self._processes:
            process.process.kill()
            process.process.wait()


@pytest.fixture
def place(
    tmp_path: Path, broker: Broker, initialised: Path, task: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    made = Place(tmp_path, broker=broker, plan=initialised, task=task)
    capfd.readouterr()
    yield made
    made.close()


class Attacker:
    """Somebody at the broker without any key, who hears everything and says what others have said."""

    def __init__(self, place: Place) -> None:
        self.topics = place.topics
        self.heard: list[Received] = []
        self.said: list[bytes] = []
        self.link = MqttLink(place.broker.url, client_id="attacker", filters=["hedgerow/#"])
        self.link.connect()

    def listen(self, until: Callable[[], bool], *, react: Callable[[Received], None] | None = None) -> None:
        give_up_at = time.monotonic() + 200
        while not until():
            assert time.monotonic() < give_up_at
            try:
                event = self.link.events.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(event, Connected):
                continue
            assert isinstance(event, Received), event
            self.heard.append(event)
            if react is not None:
                react(event)

    def first(self, topic: str) -> Received:
        return next(event for event in self.heard if event.topic == topic)


def flipped(payload: bytes, place: int) -> bytes:
    changed = bytearray(payload)
    changed[place] ^= 1
    return bytes(changed)


def test_an_attacker_at_the_broker_is_refused_counted_and_shown(place: Place) -> None:
    (place.folder / "data" / "slow").touch()
    attacker, topics = Attacker(place), place.topics
    say, own = attacker.link.publish, topics.up("a", "offer")

    def react(event: Received) -> None:
        offers = [heard for heard in attacker.heard if heard.topic == own]
        if event.topic == topics.down("a") and attacker.first(event.topic) is event:
            say(event.topic, event.payload, qos=1)
            say(topics.down("b"), event.payload, qos=1)
        if event.topic != own or event.payload in attacker.said:
            return
        attacker.said.append(event.payload)
        if len(attacker.said) == 1:
            size = decode_message(open_envelope(event.payload)[1], Offer).update.size
            # Mostly before the true one, and then its digest gives it away; after it, nobody waits for it.
            say(topics.up("a", "chunk"), encode_chunk(0, b"\x55" * size), qos=1)
            say(own, event.payload, qos=1)
            attacker.said.append(flipped(event.payload, -1))
            say(own, attacker.said[-1], qos=1)
            say(topics.up("b", "offer"), event.payload, qos=1)
            say(topics.up("stranger", "offer"), event.payload, qos=1)
            manifests = [heard.payload for heard in attacker.heard if heard.topic == topics.manifest]
            # The first of all was that of a coordinator that waits for clients.
            say(topics.manifest, manifests[0])
            say(topics.manifest, flipped(manifests[-1], 100))
            say(topics.coordinator, flipped(attacker.first(topics.coordinator).payload, -1), retain=True)
        elif decode_message(open_envelope(event.payload)[1], Offer).round == 2:
            # That of the round before.
            say(own, offers[0].payload, qos=1)

    lead = place.coordinator()
    lead.wait_for("waiting for clients")
    clients = {name: place.client(name) for name in ("a", "b")}
    attacker.listen(lambda: lead.process.poll() is not None, react=react)
    said = {name: process.said for name, process in {"lead": lead, **clients}.items()}
    assert lead.process.returncode == 0, said["lead"]
    assert [clients[name].process.wait(30) for name in ("a", "b")] == [0, 0], said
    attacker.link.close()

    with RunStore.open(place.run_dir, read_only=True) as store:
        committed = [(r.round, r.updates) for r in store.rounds() if r.status == "committed" and r.round]
        events = [event.detail for event in store.events() if event.kind == "refused"]
    assert committed == [(1, 2), (2, 2)]
    for sentence in (
        r"refused: a message of a came again",
        r"refused: a message in the name of a is forged: its signature is not that of the key",
        r"refused: a message in the name of b is forged",
        r"refused: stranger has no credentials here: to let it in: hedgerow keys token stranger",
        r"since the start: 1 forged \(a\), 2 replayed \(a\), 1 forged \(b\), 1 stranger \(stranger\)",
    ):
        assert re.search(sentence, said["lead"]), (sentence, said["lead"])
        assert any(re.search(sentence.removeprefix("refused: "), event) for event in events), (
            sentence,
            events,
        )
    for name in ("a", "b"):
        said[name] = clients[name].said
        assert "refused: a message in the name of the coordinator is forged" in said[name]
        assert "refused: a message of the coordinator came again" in said[name]
        assert "Traceback" not in said[name]
    assert "Traceback" not in said["lead"]

    page = place.folder / "report.html"
    assert main(["report", str(place.run_dir), "-o", str(page)]) == 0
    text = page.read_text()
    assert "a message in the name of b is forged" in text
    assert "refused since the start" in text
    # Signatures cost what they must: 83 bytes for each message but chunks.
    assert any("chunk" in event.topic and event.payload[:1] == b"\x01" for event in attacker.heard)
    offers = [event for event in attacker.heard if event.topic == topics.up("b", "offer")]
    assert all(event.payload[0] == 0xC1 for event in offers)


def test_a_coordinator_without_credentials_and_a_device_with_them(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    lead = place.coordinator(signed=False)
    lead.wait_for("waiting for clients")
    device = place.client("a")
    device.wait_for(
        "a message of the coordinator is not signed: start it with --credentials keys/coordinator"
    )
    lead.wait_for(
        "refused: a signs its messages, and they cannot be read without credentials: "
        "start this coordinator with --credentials keys/coordinator"
    )
    device.wait_for("waiting for a round")
    time.sleep(1.0)
    assert device.said.count("is not signed") == 1
    assert lead.said.count("signs its messages") == 1
    assert device.process.poll() is None

    # It is listed, also when a will of an earlier life comes late.
    link = MqttLink(place.broker.url, client_id="late")
    link.connect()
    topic = place.topics.presence("a")
    guard = Guard(Credentials.load(place.keys / "devices" / "a"), topics=place.topics)
    will = Presence(client="a", session=0, online=False).encode()
    link.publish(topic, guard.seal(topic, will, will=True), retain=True, qos=1)
    assert link.flush(5.0)
    link.close()
    time.sleep(0.5)
    capfd.readouterr()
    call = ("devices", "--broker", place.broker.url, "--namespace", place.namespace)
    assert main([*call, "--credentials", str(place.keys / "coordinator")]) == 0
    said = capfd.readouterr().out
    assert re.search(r"^a +here +20\d\d-", said, re.M), said
    assert "coordinator: a message of the coordinator is not signed" in said

    # A copy of its SD card is told that the name is taken; it itself stays, and is believed as before.
    shutil.copytree(place.keys / "devices" / "a", place.keys / "devices" / "copy")
    copy = place.client("copy", name="a")
    assert copy.process.wait(30) == 5
    assert "another client has the name 'a': give each device its own --name" in copy.said
    time.sleep(1.0)
    assert device.process.poll() is None
    assert main([*call, "--credentials", str(place.keys / "coordinator")]) == 0
    assert re.search(r"^a +here +20\d\d-", capfd.readouterr().out, re.M)
    for process in (lead, device):
        assert "Traceback" not in process.said
        assert "ignored" not in process.said


def test_a_coordinator_with_credentials_and_a_device_without_them(place: Place) -> None:
    lead = place.coordinator()
    lead.wait_for("waiting for clients")
    device = place.client("a", signed=False)
    assert device.process.wait(60) == 5
    last = device.said.strip().splitlines()[-1]
    assert last.endswith(
        "the coordinator signs its messages: start this client with --credentials "
        "(hedgerow keys join makes them)"
    )
    assert "ignored" not in device.said
    lead.wait_for("refused: a message of a is not signed: start that client with --credentials")
    assert lead.said.count("is not signed") == 1
    assert lead.process.poll() is None


def test_a_device_that_is_revoked_in_mid_run_is_out(place: Place) -> None:
    (place.folder / "data" / "slow").touch()
    place.edit("quorum = 0.6", "quorum = 0.5")
    place.edit("grace_s = 30.0", "grace_s = 20.0")
    lead = place.coordinator()
    lead.wait_for("waiting for clients")
    a, b = place.client("a"), place.client("b")
    a.wait_for("round 1: training")
    b.wait_for("round 1: training")
    assert main(["keys", "revoke", "b", "--keys", str(place.keys)]) == 0
    assert lead.process.wait(90) == 0
    assert a.process.wait(30) == 0
    lead.wait_for("refused: the credentials of b are revoked: to let it in again: hedgerow keys token b")
    with RunStore.open(place.run_dir, read_only=True) as store:
        for number in (1, 2):
            assert [record.client for record in store.update_records(number)] == ["a"]
