"""Signed federations under kills, and with somebody at the broker who says whatever they can to disturb."""

from __future__ import annotations

import queue
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest
from benchmarks.light.schedule import CLIENTS, Ending, run_schedule, schedule_of

from hedgerow.main import main
from hedgerow_transport import (
    MqttLink,
    Need,
    Received,
    Topics,
    encode_chunk,
    is_sealed,
    open_unchecked,
    parse_topic,
)

TOPICS = Topics("default")
# A chunk that is not signed can be spoilt; who spoils every one of them stops a federation for as long.
SPOILS = 0.1


class Attacker:
    """Hear everything; play it again, late, changed, in another's name or without its signature, by a seed.

    Attributes
    ----------
    tricks : Counter
        How often each was played.
    """

    def __init__(self, url: str, *, seed: int) -> None:
        self.tricks: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._link = MqttLink(url, client_id="attacker", filters=["hedgerow/#"])
        self._said: Counter[tuple[str, bytes]] = Counter()
        self._heard: list[Received] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attacker")

    def __enter__(self) -> Attacker:
        self._link.connect()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        self._link.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                event = self._link.events.get(timeout=0.05)
            except queue.Empty:
                continue
            if not isinstance(event, Received) or event.retained:
                continue
            key = (event.topic, event.payload)
            if self._said[key]:
                self._said[key] -= 1
                continue
            self._on(event)

    def _on(self, event: Received) -> None:
        parsed, chance = parse_topic(event.topic), self._chance
        if parsed is None:
            return
        if parsed.kind in ("blob", "chunk"):
            if chance.random() < SPOILS:
                index = int.from_bytes(event.payload[1:5], "big")
                self._say(
                    "spoilt", event.topic, encode_chunk(index, chance.randbytes(len(event.payload) - 9))
                )
                self._say("garbage", event.topic, chance.randbytes(40))
            return
        self._heard.append(event)
        payload, topic = event.payload, event.topic
        self._say("at once", topic, payload)
        old = chance.choice(self._heard)
        self._say("late", old.topic, old.payload, retain=chance.random() < 0.3)
        changed = bytearray(payload)
        changed[chance.randrange(len(changed))] ^= chance.randint(1, 255)
        self._say("changed", topic, bytes(changed), retain=chance.random() < 0.3)
        if is_sealed(payload):
            self._say("stripped", topic, open_unchecked(payload)[0], retain=chance.random() < 0.3)
        if parsed.client is not None:
            other = chance.choice([name for name in (*CLIENTS, "stranger") if name != parsed.client])
            self._say("another's", topic.replace(f"/{parsed.client}", f"/{other}"), payload)
        self._say("needs", TOPICS.need, Need(digest=chance.randbytes(16), bitmap=b"\xff").encode())

    def _say(self, trick: str, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.tricks[trick] += 1
        self._said[topic, payload] += 1
        self._link.publish(topic, payload, retain=retain, qos=1)


@pytest.fixture(scope="module")
def undisturbed(open_directory: Callable[[], Path]) -> Ending:
    return run_schedule((), folder=open_directory())


@pytest.fixture
def signed(open_directory: Callable[[], Path], capfd: pytest.CaptureFixture[str]) -> Path:
    """Return a folder with keys for everybody."""
    folder = open_directory()
    assert main(["keys", "init", str(folder / "keys"), "--host", "localhost"]) == 0
    for name in CLIENTS:
        assert main(["keys", "device", name, "--keys", str(folder / "keys")]) == 0
    capfd.readouterr()
    return folder


def lines_with(folder: Path, pattern: str) -> list[str]:
    logs = [folder / f"{name}.log" for name in ("coordinator", *CLIENTS)]
    return [line for log in logs for line in log.read_text().splitlines() if re.search(pattern, line)]


@pytest.mark.parametrize("seed", [7, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6))])
def test_an_attacker_without_keys_changes_no_bit(seed: int, undisturbed: Ending, signed: Path) -> None:
    attackers: list[Attacker] = []

    def beside(url: str) -> Attacker:
        attackers.append(Attacker(url, seed=seed))
        return attackers[-1]

    ending = run_schedule((), folder=signed, timeout_s=100.0, beside=beside)
    tricks = attackers[0].tricks
    assert set(tricks) >= {"at once", "late", "changed", "stripped", "another's", "needs"}, tricks
    assert sum(tricks.values()) > 100
    assert ending.weights == undisturbed.weights
    assert ending.updates == undisturbed.updates
    assert lines_with(signed, "Traceback") == []
    summary = lines_with(signed, "refused since the start: ")
    assert len(summary) == 1
    for name in CLIENTS:
        for reason in ("forged", "replayed", "unsigned"):
            assert re.search(rf"\d+ {reason} \({name}\)", summary[0]), (name, reason, summary)
    assert re.search(r"\d+ stranger \(stranger\)", summary[0])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_kills_change_nothing_in_a_signed_federation(seed: int, undisturbed: Ending, signed: Path) -> None:
    ending = run_schedule(schedule_of(seed), folder=signed, timeout_s=100.0)
    assert ending.killed
    assert ending.weights == undisturbed.weights
    assert ending.updates == undisturbed.updates
    # Whoever goes on after a kill counts on; nothing that is true is taken for a forgery.
    assert lines_with(signed, "forged|stranger|unsigned|expired|revoked") == []
