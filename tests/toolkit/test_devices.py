"""`hedgerow devices`: who is there, in a bounded time, and whom not to believe."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow.roll_call import MAX_DEVICES, RollCall
from hedgerow_transport import (
    BlobRef,
    Broker,
    CoordinatorState,
    Credentials,
    DeviceState,
    Guard,
    Manifest,
    MqttLink,
    Presence,
    Received,
    Topics,
)

D = bytes(16)
PROFILE = {"machine": "Raspberry Pi 4 Model B", "cores": 4, "ram_mib": 3792, "instance": "17-abc"}


def birth(name: str, *, session: int = 3, at: int = 1_800_000_000, **profile: Any) -> bytes:
    known = {**PROFILE, **profile}
    return Presence(client=name, session=session, online=True, profile=known, at=at).encode()


def gone(name: str, *, at: int = 1_800_000_100, **profile: Any) -> bytes:
    return Presence(client=name, session=3, online=False, profile=profile, at=at).encode()


def state(word: str, *, session: int = 3, round_number: int = 0, reason: str = "") -> bytes:
    message = DeviceState(session=session, state=word, round=round_number, at=1_800_000_050, reason=reason)
    return message.encode()


def manifest(word: str, *, run: str = "digits-1a2b3c") -> bytes:
    plan = BlobRef(kind="plan", digest=D, size=9)
    return Manifest(
        run=run,
        state=word,
        round=7,
        attempt=1,
        version=6,
        layout=D,
        mask=D,
        model=D,
        plan=plan,
        steps=(),
        base_version=-1,
        deadline_s=60.0,
    ).encode()


class Board:
    """What is retained at a broker, in a namespace of its own."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace, self.topics = url, namespace, Topics(namespace)
        self.link = MqttLink(url, client_id=f"board-{namespace}")
        self.link.connect()
        self._topics: set[str] = set()

    def pin(self, topic: str, payload: bytes) -> None:
        self._topics.add(topic)
        self.link.publish(topic, payload, retain=True, qos=1)
        assert self.link.flush(5.0)

    def close(self) -> None:
        for topic in self._topics:
            self.link.publish(topic, b"", retain=True, qos=1)
        self.link.close()

    def call(self, *options: object) -> int:
        return main(["devices", "--broker", self.url, "--namespace", self.namespace, *map(str, options)])


@pytest.fixture
def board(broker: Broker, request: pytest.FixtureRequest) -> Iterator[Board]:
    opened = Board(broker.url, f"n{abs(hash(request.node.name)) % 10**9}")
    yield opened
    opened.close()


def test_who_is_there_is_listed(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    topics = board.topics
    here = CoordinatorState(run="digits-1a2b3c", session=1, online=True, at=1_800_000_000)
    board.pin(topics.coordinator, here.encode())
    board.pin(topics.manifest, manifest("round"))
    board.pin(topics.presence("shed-pi"), birth("shed-pi"))
    board.pin(topics.presence("barn-pi"), birth("barn-pi", cores=2))
    board.pin(topics.up("barn-pi", "state"), state("training", round_number=7))
    board.pin(topics.presence("hot-pi"), birth("hot-pi"))
    board.pin(topics.up("hot-pi", "state"), state("paused", round_number=7, reason="it is 84 °C"))
    board.pin(topics.presence("left-pi"), gone("left-pi", received_bytes=9))
    board.pin(topics.presence("lost-pi"), gone("lost-pi"))
    # What it did in its life before says nothing.
    board.pin(topics.up("shed-pi", "state"), state("training", session=2, round_number=4))
    board.pin(topics.up("lost-pi", "state"), state("training", round_number=7))
    started = time.monotonic()
    assert board.call() == ExitCode.DONE
    assert time.monotonic() - started < 6
    lines = capsys.readouterr().out.splitlines()
    clock = r"2027-01-1[45] \d\d:\d\d"
    expected = [
        rf"coordinator: here since {clock}, run 'digits-1a2b3c', round 7 is running",
        r"name +does +since +cores +memory +machine",
        rf"barn-pi +here +training, round 7 +{clock} +2 +3,792 MiB +Raspberry Pi 4 Model B",
        rf"hot-pi +here +paused, round 7: it is 84 °C +{clock} +4 +3,792 MiB +Raspberry Pi 4 Model B",
        rf"left-pi +gone +left +{clock}",
        rf"lost-pi +gone +was here, lost after +{clock}",
        rf"shed-pi +here +{clock} +4 +3,792 MiB +Raspberry Pi 4 Model B",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_the_same_as_json(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    topics = board.topics
    away = CoordinatorState(run="digits-1a2b3c", session=1, online=False, message="stopped", at=5)
    board.pin(topics.coordinator, away.encode())
    board.pin(topics.manifest, manifest("finished", run="another-run"))
    board.pin(topics.presence("a"), birth("a"))
    board.pin(topics.presence("b"), gone("b"))
    before = int(time.time())
    assert board.call("--json") == ExitCode.DONE
    facts = json.loads(capsys.readouterr().out)
    assert facts["namespace"] == board.namespace
    assert facts["coordinator"] == {
        "online": False,
        "run": "digits-1a2b3c",
        "message": "stopped",
        "since": 5,
        "state": None,
        "round": None,
        "signature": "none",
        "problem": "",
    }
    a, b = facts["devices"]
    assert before <= a["last_seen"] == facts["asked_at"]
    assert (a["name"], a["online"], a["state"], a["since"]) == ("a", True, None, 1_800_000_000)
    assert a["profile"] == {"machine": "Raspberry Pi 4 Model B", "cores": 4, "ram_mib": 3792}
    assert (b["online"], b["vanished"], b["last_seen"], b["signature"]) == (
        False,
        True,
        1_800_000_100,
        "none",
    )


def test_nobody_is_a_sentence(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    assert board.call() == ExitCode.DONE
    said = capsys.readouterr().out
    assert re.match(rf"nobody is there: .* namespace '{board.namespace}' of 127.0.0.1:\d+\n", said)
    assert board.call("--json") == ExitCode.DONE
    facts = json.loads(capsys.readouterr().out)
    assert (facts["coordinator"], facts["devices"]) == (None, [])


def test_a_coordinator_alone_and_devices_alone(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    board.pin(board.topics.presence("a"), birth("a"))
    board.call()
    assert capsys.readouterr().out.startswith("coordinator: none has been here\nname ")
    board.pin(board.topics.presence("a"), b"")
    board.pin(board.topics.coordinator, CoordinatorState(run="r", session=1, online=True).encode())
    board.call()
    assert capsys.readouterr().out == "coordinator: here, run 'r'\nno device has been here\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--broker", "mqtt://127.0.0.1:1"], ExitCode.BROKER, "127.0.0.1:1"),
        (["--broker", "http://127.0.0.1"], ExitCode.USAGE, "mqtt://"),
        (["--namespace", "No/Such"], ExitCode.USAGE, "namespace 'No/Such': use 1 to 32 of a-z"),
        (["--credentials", "/no/such"], ExitCode.USAGE, "there are no credentials in /no/such"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, sentence: str
) -> None:
    started = time.monotonic()
    assert main(["devices", *arguments]) == code
    assert time.monotonic() - started < 15
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_garbage_is_told_and_steers_no_terminal(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    topics = board.topics
    board.pin(topics.presence("a"), b"\xff\x00 garbage")
    board.pin(topics.presence("b"), birth("c"))
    board.pin(topics.presence("e"), birth("e", machine="\x1b[2J\r\nevil", cores=True))
    board.pin(topics.up("e", "state"), b"garbage")
    board.pin(topics.coordinator, b"garbage")
    assert board.call() == ExitCode.DONE
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\r" not in said
    assert "coordinator: what is said in this name is garbage: CoordinatorState" in said
    assert re.search(r"^a: what is said in this name is garbage: Presence", said, re.M)
    assert "b: is said to be 'c', too" in said
    assert re.search(r"^e +here .*evil$", said, re.M)


def test_names_without_end_take_bounded_memory() -> None:
    topics = Topics("farm")
    call = RollCall(topics)
    for number in range(3 * MAX_DEVICES):
        call.hear(Received(topics.presence(f"x{number}"), b"x", True))
    assert len(call.roll(now=0).devices) == 2 * MAX_DEVICES


# -- signed -----------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "keys"
    assert main(["keys", "init", str(folder), "--host", "localhost"]) == 0
    for name in ("a", "b", "c", "d"):
        assert main(["keys", "device", name, "--keys", str(folder)]) == 0
    capsys.readouterr()
    return folder


@pytest.fixture
def guard_of(keys: Path, board: Board) -> Callable[[str], Guard]:
    def make(name: str) -> Guard:
        folder = keys / "coordinator" if name == "coordinator" else keys / "devices" / name
        return Guard(Credentials.load(folder), topics=board.topics)

    return make


def test_entries_whose_signature_does_not_hold_are_marked(
    board: Board, keys: Path, guard_of: Callable[[str], Guard], capsys: pytest.CaptureFixture[str]
) -> None:
    topics, lead = board.topics, guard_of("coordinator")

    def pin(who: str, topic: str, message: bytes) -> bytes:
        sealed = guard_of(who).seal(topic, message)
        board.pin(topic, sealed)
        return sealed

    pin("coordinator", topics.coordinator, CoordinatorState(run="r", session=1, online=True).encode())
    pin("coordinator", topics.manifest, manifest("waiting", run="r"))
    pin("a", topics.presence("a"), birth("a"))
    pin("a", topics.up("a", "state"), state("training", round_number=7))
    stolen = pin("b", topics.presence("b"), birth("b"))
    board.pin(topics.presence("b"), stolen[:-1] + b"\x01")
    old = pin("c", topics.presence("c"), birth("c"))
    lead.open(topics.presence("c"), guard_of("c").seal(topics.presence("c"), gone("c", received_bytes=1)))
    lead.close()
    board.pin(topics.presence("c"), old)
    board.pin(topics.presence("nobody"), birth("nobody"))
    call = ("--credentials", keys / "coordinator")
    assert board.call(*call) == ExitCode.DONE
    said = capsys.readouterr().out
    for pattern in (
        r"^coordinator: here, run 'r', waiting for clients before round 7$",
        r"^a +here +training, round 7 ",
        r"^b +\?$",
        r"^c +\?$",
        r"^d +-$",
        r"^nobody +\?$",
        r"^b: a message in the name of b is forged: ",
        r"^c: a message of c came again: ",
        r"^d: has credentials and was not here yet$",
        r"^nobody: nobody has no credentials here: ",
    ):
        assert re.search(pattern, said, re.M), (pattern, said)
    assert "Raspberry" not in said.replace("Raspberry", "", 1)
    assert board.call(*call, "--json") == ExitCode.DONE
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["devices"]}
    assert {name: row["signature"] for name, row in rows.items()} == {
        "a": "holds",
        "b": "forged",
        "c": "replayed",
        "d": "holds",
        "nobody": "stranger",
    }
    assert [name for name, row in rows.items() if row["online"]] == ["a"]
    # A revoked device is told as such, and is not missed when it is silent.
    assert main(["keys", "revoke", "a", "--keys", str(keys)]) == 0
    assert main(["keys", "revoke", "d", "--keys", str(keys)]) == 0
    capsys.readouterr()
    board.call(*call)
    said = capsys.readouterr().out
    assert "a: the credentials of a are revoked" in said
    assert not re.search(r"^d ", said, re.M)


def test_without_credentials_signed_words_are_read_and_not_believed(
    board: Board, guard_of: Callable[[str], Guard], capsys: pytest.CaptureFixture[str]
) -> None:
    topic = board.topics.presence("a")
    board.pin(topic, guard_of("a").seal(topic, birth("a")))
    assert board.call() == ExitCode.DONE
    said = capsys.readouterr().out
    assert re.search(r"^a +here ", said, re.M)
    assert said.endswith("signatures are not checked without --credentials keys/coordinator\n")


def test_looking_on_changes_no_file_and_needs_the_coordinators_credentials(
    board: Board, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in keys.rglob("*")}
    board.call("--credentials", keys / "coordinator")
    assert {path: path.stat().st_mtime_ns for path in keys.rglob("*")} == before
    capsys.readouterr()
    assert board.call("--credentials", keys / "devices" / "a") == ExitCode.USAGE
    assert "are for a device, not a coordinator" in capsys.readouterr().err
