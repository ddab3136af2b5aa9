"""Who may say what: signs our messages, and judges those of others before anything else looks at them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from hedgerow_transport.counters import MessageCounter, ReplayWindow, SeenCounters
from hedgerow_transport.credentials import DEVICES_NAME, Credentials
from hedgerow_transport.device_register import DeviceRegister
from hedgerow_transport.envelope import MAX_TIME, Envelope, is_sealed, open_envelope
from hedgerow_transport.errors import CredentialsError, MessageError, MessageRefused
from hedgerow_transport.manifest import Manifest
from hedgerow_transport.message import decode_message
from hedgerow_transport.topics import ParsedTopic, Topics

MANIFEST_VALID_S = 48 * 3600
RENEW_S = 12 * 3600
# A run that has ended says so to whoever comes within a year.
LAST_MANIFEST_VALID_S = 365 * 86_400
MAX_SIGNED_MANIFEST_BYTES = 999
# How old our own birth message may be to count as that of a namesake.
NAMESAKE_S = 300
MAX_COUNTED = 1000
REASONS = ("unsigned", "stranger", "revoked", "expired", "forged", "replayed")
_FROM_COORDINATOR = ("manifest", "coordinator", "down")
_FROM_CLIENT = ("presence", "offer", "decline", "sync")
_RETAINED = ("manifest", "coordinator", "presence")
COUNTER_NAME = "counter.json"


class Guard:
    """Sign what one side publishes in a namespace, and open what it receives.

    Parameters
    ----------
    credentials : Credentials
        Whose we are.
    topics : Topics
        The namespace.
    wall_clock, clock : callable
        Unix time, and seconds by a clock that does not jump.
    keeps : bool
        Whether what was seen is written down; no for whoever only looks on.

    Attributes
    ----------
    refusals : Counter
        How many messages were refused, by (sender, reason).

    Raises
    ------
    CredentialsError
        When the coordinator's register, or a file of counters, cannot be used.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        topics: Topics,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        keeps: bool = True,
    ) -> None:
        folder = credentials.directory
        self._credentials = credentials
        self._topics = topics
        self._wall_clock = wall_clock
        self._counter = MessageCounter(folder / COUNTER_NAME, wall_clock=wall_clock)
        self._seen = SeenCounters(folder / f"seen-{topics.namespace}.json" if keeps else None, clock=clock)
        self._register = DeviceRegister(folder / DEVICES_NAME) if credentials.role == "coordinator" else None
        self._windows: dict[str, ReplayWindow] = {}
        self.refusals: Counter[tuple[str, str]] = Counter()

    def seal(self, topic: str, payload: bytes, *, will: bool = False) -> bytes:
        """Return what is published: signed, where messages of that topic are.

        Raises
        ------
        CredentialsError
            When our counter cannot be written down.
        """
        kind = self._topics.parse(topic).kind
        ours = _FROM_COORDINATOR if self._credentials.role == "coordinator" else _FROM_CLIENT
        if kind not in ours or not payload:
            return payload
        now = min(max(0, int(self._wall_clock())), MAX_TIME)
        expires = min(now + _manifest_valid_s(payload), MAX_TIME) if kind == "manifest" else 0
        envelope = Envelope(counter=self._counter.next(), issued=now, expires=expires, will=will)
        sealed = envelope.seal(payload, topic=topic, key=self._credentials.signing_key)
        if kind == "manifest" and len(sealed) > MAX_SIGNED_MANIFEST_BYTES:
            raise MessageError(f"has {len(sealed)} bytes with its signature", message="Manifest")
        return sealed

    def open(self, topic: str, payload: bytes) -> bytes:
        """Return the message in a payload whose sender may say it.

        Raises
        ------
        MessageRefused
            When it may not; it is counted in `refusals`.
        TopicError
            For a topic of another namespace.
        """
        parsed = self._topics.parse(topic)
        if parsed.kind not in (*_FROM_COORDINATOR, *_FROM_CLIENT):
            return payload
        try:
            return self._judged(parsed, topic, payload)
        except MessageRefused as refusal:
            self._count(refusal)
            raise

    def close(self) -> None:
        """Write down what was seen."""
        self._seen.save()

    def _count(self, refusal: MessageRefused) -> None:
        key = (refusal.sender, refusal.reason)
        if key not in self.refusals and len(self.refusals) >= MAX_COUNTED:
            # Strangers have as many names as they like.
            key = ("others", refusal.reason)
        self.refusals[key] += 1

    # -- judging --------------------------------------------------------------------------------------

    def _judged(self, parsed: ParsedTopic, topic: str, payload: bytes) -> bytes:
        sender = "the coordinator" if parsed.kind in _FROM_COORDINATOR else parsed.client or ""
        key = self._key_of(parsed, sender=sender)
        if not is_sealed(payload):
            raise MessageRefused(sender=sender, reason="unsigned", advice=_unsigned_advice(sender))
        try:
            envelope, message = open_envelope(payload)
        except MessageError as error:
            raise MessageRefused(sender=sender, reason="forged", advice=str(error)) from error
        if envelope.counter >= 2**63 or not envelope.is_by(key, topic=topic, message=message):
            raise MessageRefused(
                sender=sender,
                reason="forged",
                advice="its signature is not that of the key which belongs to this name and topic",
            )
        if self._is_our_own(parsed):
            return self._judged_as_namesake(parsed, envelope, message)
        self._check_time(envelope, sender=sender)
        self._check_fresh(parsed, envelope, key=key, sender=sender)
        if parsed.kind in _FROM_COORDINATOR:
            self._seen.note_time(envelope.issued)
        return message

    def _key_of(self, parsed: ParsedTopic, *, sender: str) -> bytes:
        """Return the public key with which a topic's messages must be signed."""
        if parsed.kind in _FROM_COORDINATOR:
            return self._credentials.coordinator_key
        if self._register is None:
            # A device hears of clients by its own presence only.
            return self._credentials.signing_key.public
        try:
            device = self._register.find(sender)
        except CredentialsError as error:
            raise MessageRefused(sender=sender, reason="stranger", advice=str(error)) from error
        if device is None:
            raise MessageRefused(
                sender=sender, reason="stranger", advice=f"to let it in: hedgerow keys token {sender}"
            )
        if device.revoked:
            raise MessageRefused(
                sender=sender, reason="revoked", advice=f"to let it in again: hedgerow keys token {sender}"
            )
        if device.expires < self._wall_clock():
            raise MessageRefused(
                sender=sender, reason="expired", advice=f"for new credentials: hedgerow keys token {sender}"
            )
        return device.signing_key

    def _is_our_own(self, parsed: ParsedTopic) -> bool:
        if self._credentials.role == "coordinator":
            return parsed.kind in _FROM_COORDINATOR
        return parsed.kind in _FROM_CLIENT

    def _judged_as_namesake(self, parsed: ParsedTopic, envelope: Envelope, message: bytes) -> bytes:
        # Somebody else with our key counts on its own; a message of ours that is played again must not look
        # like a namesake that is there now.
        if parsed.kind == "presence" and abs(self._wall_clock() - envelope.issued) > NAMESAKE_S:
            raise MessageRefused(
                sender=parsed.client or "", reason="replayed", advice="it is an old message of this device"
            )
        return message

    def _check_time(self, envelope: Envelope, *, sender: str) -> None:
        now = self._wall_clock()
        # A Raspberry Pi comes up in the past; then the counter alone decides.
        believable = now >= max(self._credentials.made, self._seen.issued)
        if envelope.expires and believable and now > envelope.expires:
            ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(envelope.expires))
            raise MessageRefused(
                sender=sender,
                reason="expired",
                advice=f"it was good until {ended}; if that is not over, set this machine's clock",
            )

    def _check_fresh(self, parsed: ParsedTopic, envelope: Envelope, *, key: bytes, sender: str) -> None:
        # By key, too: a device that has joined again counts anew.
        mark = blake2b(key, digest_size=4).hexdigest()
        kind = parsed.kind if parsed.kind in _RETAINED or parsed.kind == "down" else "up"
        source = f"{kind} {parsed.client or ''} {mark}"
        counter = envelope.counter
        if parsed.kind in _RETAINED:
            fresh = envelope.will or counter >= self._seen.highest(source)
        else:
            window = self._windows.get(source)
            if window is None:
                window = self._windows[source] = ReplayWindow(self._seen.highest(source))
            fresh = window.take(counter)
        if not fresh:
            raise MessageRefused(
                sender=sender,
                reason="replayed",
                advice=f"its number, {counter}, was seen before or is older than what was",
            )
        if not envelope.will:
            self._seen.note(source, counter)


def _manifest_valid_s(payload: bytes) -> int:
    over = decode_message(payload, Manifest).state in ("finished", "failed")
    return LAST_MANIFEST_VALID_S if over else MANIFEST_VALID_S


def _unsigned_advice(sender: str) -> str:
    if sender == "the coordinator":
        return "start it with --credentials keys/coordinator"
    return (
        f"start that client with --credentials (hedgerow keys token {sender}, then hedgerow keys join there)"
    )
