"""Who is there, from what is retained at a broker: births, farewells and wills, states, the coordinator."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hedgerow_transport import (
    CoordinatorState,
    Device,
    DeviceState,
    Guard,
    Link,
    Manifest,
    MessageError,
    MessageRefused,
    Presence,
    Received,
    TopicError,
    Topics,
    decode_message,
    open_unchecked,
)

# What is retained comes at once; a broker that is silent for so long has no more of it.
QUIET_S = 1.0
LONGEST_S = 15.0
# Whoever may write to the broker has as many names as they like.
MAX_DEVICES = 10_000
# What a process tells about itself and not about its device.
_OF_PROCESSES = ("instance", "answers")
HOLDS, UNSIGNED, UNCHECKED = "holds", "none", "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attendee:
    """One device.

    Parameters
    ----------
    name : str
    online : bool
        Whether the broker has a birth message of it, and no will or farewell since.
    state : str
        What it has told that it does; empty when it has told nothing, which short rounds do not.
    round : int
    reason : str
        Of a pause.
    since : int
        Unix time by its clock: of its birth, or of its state; 0 when that is not known.
    last_seen : int
        When it was there last: now, when it was said farewell; of one that has vanished, when it came.
    vanished : bool
        Whether the broker has said its farewell.
    profile : mapping
        What it has told about itself.
    signature : str
        Whether that of its words holds: `HOLDS`, `UNSIGNED`, `UNCHECKED`, or the cause of a refusal.
    problem : str
        A sentence where nothing that is said in its name can be believed.
    """

    name: str
    online: bool = False
    state: str = ""
    round: int = 0
    reason: str = ""
    since: int = 0
    last_seen: int = 0
    vanished: bool = False
    profile: Mapping[str, object] = field(default_factory=dict)
    signature: str = HOLDS
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The coordinator, and where its run stands (`state` is empty where no manifest is there)."""

    online: bool = False
    run: str = ""
    message: str = ""
    since: int = 0
    state: str = ""
    round: int = 0
    signature: str = HOLDS
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Who is there; `leader` is None where no coordinator has said a word."""

    leader: Leader | None
    devices: tuple[Attendee, ...]


@dataclass(slots=True)
class _Word:
    """The newest message on a topic: what it says, or why it is not believed."""

    message: Presence | DeviceState | CoordinatorState | Manifest | None
    signature: str
    problem: str = ""


_KINDS = {
    "presence": Presence,
    "state": DeviceState,
    "coordinator": CoordinatorState,
    "manifest": Manifest,
}


def filters(topics: Topics) -> tuple[str, ...]:
    """Return what has to be subscribed to."""
    return topics.presence_filter, topics.state_filter, topics.coordinator, topics.manifest


class RollCall:
    """Collect what is said, and sum it up.

    Parameters
    ----------
    topics : Topics
        The namespace.
    guard : Guard or None
        Judges signatures; None where there are no credentials.
    known : mapping
        Devices that have credentials, by name: those that never came are listed, too.
    """

    def __init__(
        self, topics: Topics, *, guard: Guard | None = None, known: Mapping[str, Device] | None = None
    ) -> None:
        self._topics = topics
        self._guard = guard
        self._known = {name for name, device in (known or {}).items() if not device.revoked}
        self._words: dict[tuple[str, str], _Word] = {}

    def listen(self, link: Link, *, quiet_s: float = QUIET_S, longest_s: float = LONGEST_S) -> None:
        """Take what comes, until nothing has come for `quiet_s`, at most for `longest_s` seconds."""
        end = time.monotonic() + longest_s
        while (rest := end - time.monotonic()) > 0:
            try:
                event = link.events.get(timeout=min(quiet_s, rest))
            except queue.Empty:
                return
            if isinstance(event, Received):
                self.hear(event)

    def hear(self, event: Received) -> None:
        """Take one message."""
        try:
            parsed = self._topics.parse(event.topic)
        except TopicError:
            return
        kind = _KINDS.get(parsed.kind)
        key = (parsed.kind, parsed.client or "")
        if kind is None or (key not in self._words and len(self._words) >= 2 * MAX_DEVICES):
            return
        if not event.payload:
            self._words.pop(key, None)
            return
        try:
            payload, signature = self._opened(event)
            self._words[key] = _Word(decode_message(payload, kind), signature)
        except MessageRefused as refusal:
            self._words[key] = _Word(None, refusal.reason, str(refusal))
        except MessageError as error:
            self._words[key] = _Word(None, UNSIGNED, f"what is said in this name is garbage: {error}")

    def _opened(self, event: Received) -> tuple[bytes, str]:
        if self._guard is not None:
            return self._guard.open(event.topic, event.payload), HOLDS
        message, signed = open_unchecked(event.payload)
        return message, UNCHECKED if signed else UNSIGNED

    def roll(self, *, now: int) -> Roll:
        """Return who is there at the Unix time `now`, by name."""
        names = {name for kind, name in self._words if kind == "presence"} | self._known
        return Roll(
            leader=self._leader(), devices=tuple(self._attendee(name, now=now) for name in sorted(names))
        )

    def _attendee(self, name: str, *, now: int) -> Attendee:
        word = self._words.get(("presence", name))
        if word is None:
            return Attendee(name=name, problem="has credentials and was not here yet")
        presence = word.message
        if not isinstance(presence, Presence):
            return Attendee(name=name, signature=word.signature, problem=word.problem)
        if presence.client != name:
            return Attendee(
                name=name, signature=word.signature, problem=f"is said to be {presence.client!r}, too"
            )
        if not presence.online:
            return Attendee(
                name=name,
                since=presence.at,
                last_seen=presence.at,
                vanished=not presence.profile,
                signature=word.signature,
            )
        here = Attendee(
            name=name,
            online=True,
            since=presence.at,
            last_seen=now,
            profile={key: value for key, value in presence.profile.items() if key not in _OF_PROCESSES},
            signature=word.signature,
        )
        told = self._words.get(("state", name))
        doing = None if told is None or told.signature != word.signature else told.message
        # One of an earlier life says nothing about this one.
        if not isinstance(doing, DeviceState) or doing.session != presence.session:
            return here
        return replace(here, state=doing.state, round=doing.round, reason=doing.reason, since=doing.at)

    def _leader(self) -> Leader | None:
        word, told = self._words.get(("coordinator", "")), self._words.get(("manifest", ""))
        if word is None:
            return None
        state = word.message
        if not isinstance(state, CoordinatorState):
            return Leader(signature=word.signature, problem=word.problem)
        leader = Leader(
            online=state.online,
            run=state.run,
            message=state.message,
            since=state.at,
            signature=word.signature,
            problem="" if told is None else told.problem,
        )
        manifest = None if told is None else told.message
        if not isinstance(manifest, Manifest) or manifest.run != state.run:
            return leader
        return replace(leader, state=manifest.state, round=manifest.round)
