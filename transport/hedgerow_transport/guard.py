"""Who may say what: signs our messages, and judges those of others before anything else looks at them."""

from __future__ import annotations

import time
from collections.abc import Callable

from hedgerow_transport.counters import MAX_COUNTER, MessageCounter, SeenCounters
from hedgerow_transport.credentials import COUNTER_NAME, Credentials
from hedgerow_transport.device_register import DeviceRegister
from hedgerow_transport.envelope import MAX_TIME, Envelope, is_sealed, open_envelope
from hedgerow_transport.errors import CredentialsError, MessageError, MessageRefused
from hedgerow_transport.freshness import Freshness
from hedgerow_transport.manifest import Manifest
from hedgerow_transport.message import decode_message
from hedgerow_transport.topics import ParsedTopic, Topics

MANIFEST_VALID_S = 48 * 3600
RENEW_S = 12 * 3600
# A run that has ended says so to whoever comes within a year.
LAST_MANIFEST_VALID_S = 365 * 86_400
MAX_SIGNED_MANIFEST_BYTES = 999
# How old a message with our own key may be to count as that of a rival coordinator.
RIVAL_S = 2 * RENEW_S
_FROM_COORDINATOR = ("manifest", "coordinator", "down", "delivery")
_FROM_CLIENT = ("presence", "offer", "decline", "sync", "state", "report")
_EXPIRING = ("manifest", "delivery")


class Guard:
    """Sign what one side publishes in a namespace, and open what it receives.

    `seal` may be called by any thread, all else by one.

    Parameters
    ----------
    credentials : Credentials
        Whose we are.
    topics : Topics
        The namespace.
    wall_clock, clock : callable
        Unix time, and seconds by a clock that does not jump.
    looks_on : bool
        Whether we only look at what is retained: nothing is written down, and what has our own key may be
        old.

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
        looks_on: bool = False,
    ) -> None:
        folder = credentials.directory
        self._credentials = credentials
        self._topics = topics
        self._wall_clock = wall_clock
        self._looks_on = looks_on
        self._counter = MessageCounter(folder / COUNTER_NAME, wall_clock=wall_clock)
        self._seen = SeenCounters(folder / f"seen-{topics.namespace}.json", keeps=not looks_on, clock=clock)
        self._freshness = Freshness(self._seen)
        self._register = DeviceRegister(credentials.register) if credentials.role == "coordinator" else None

    def seal(self, topic: str, payload: bytes, *, will: bool = False) -> bytes:
        """Return what is published: signed, where messages of that topic are.

        Raises
        ------
        CredentialsError
            When our counter cannot be written down.
        """
        kind = self._topics.parse(topic).kind
        ours = _FROM_COORDINATOR if self._register is not None else _FROM_CLIENT
        if kind not in ours or not payload:
            return payload
        now = min(max(0, int(self._wall_clock())), MAX_TIME)
        expires = min(now + _valid_s(kind, payload), MAX_TIME) if kind in _EXPIRING else 0
        envelope = Envelope(counter=self._counter.next(), issued=now, expires=expires, will=will)
        sealed = envelope.seal(payload, topic=topic, key=self._credentials.signing_key)
        if kind == "manifest" and len(sealed) > MAX_SIGNED_MANIFEST_BYTES:
            raise MessageError(f"has {len(sealed)} bytes with its signature", message="Manifest")
        return sealed

    def open(self, topic: str, payload: bytes) -> bytes:
        """Return the message in a payload whose sender may say it.

        Parameters
        ----------
        topic : str
        payload : bytes

        Raises
        ------
        MessageRefused
            When it may not.
        TopicError
            For a topic of another namespace.
        """
        parsed = self._topics.parse(topic)
        if parsed.kind == "chunk" and self._register is not None:
            # Not signed, the digest in the offer covers them; but strangers need not be listened to.
            self._key_of(parsed, sender=parsed.client or "")
        if parsed.kind not in (*_FROM_COORDINATOR, *_FROM_CLIENT):
            return payload
        sender = "the coordinator" if parsed.kind in _FROM_COORDINATOR else parsed.client or ""
        key = self._key_of(parsed, sender=sender)
        envelope, message = _checked(topic, payload, key=key, sender=sender)
        if self._is_our_own(parsed):
            self._judge_our_own(parsed, envelope, sender=sender)
            return message
        self._check_time(envelope, sender=sender)
        if not self._freshness.take(parsed, envelope, key=key):
            raise MessageRefused(
                sender=sender,
                reason="replayed",
                advice="it is ignored; a bad link does that now and then, an attacker does it often",
            )
        if parsed.kind in _FROM_COORDINATOR:
            self._seen.note_time(envelope.issued)
        if parsed.kind in _EXPIRING:
            # Few, and an older one must not pass after a power cut.
            self._seen.save()
        return message

    def tick(self) -> None:
        """Let time pass: now and then what was seen is written down."""
        self._seen.tick()

    def close(self) -> None:
        """Write down what was seen."""
        self._seen.save()

    # -- judging --------------------------------------------------------------------------------------

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
        return parsed.kind in (_FROM_COORDINATOR if self._register is not None else _FROM_CLIENT)

    def _judge_our_own(self, parsed: ParsedTopic, envelope: Envelope, *, sender: str) -> None:
        """Refuse a word of a coordinator with our key that is played again as if there was another one.

        Somebody else with our key, as the copy of a whole SD card has it, counts on its own. Where it is
        ahead we overtake it: else all that we say would look old. A device asks a namesake before it believes
        in one, whatever is played again.
        """
        self._counter.overtake(envelope.counter)
        if self._looks_on or parsed.kind != "coordinator":
            return
        if abs(self._wall_clock() - envelope.issued) > RIVAL_S:
            raise MessageRefused(sender=sender, reason="replayed", advice="it is one of ours from long ago")

    def _check_time(self, envelope: Envelope, *, sender: str) -> None:
        now = self._wall_clock()
        # A Raspberry Pi comes up in the past; then the counter alone decides.
        believable = now >= max(self._credentials.made, self._seen.issued)
        if envelope.expires and believable and now > envelope.expires:
            ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(envelope.expires))
            raise MessageRefused(
                sender=sender,
                reason="expired",
                advice=f"it was good until {ended}; if that is to come, set the clock here or at the gateway",
            )


def _checked(topic: str, payload: bytes, *, key: bytes, sender: str) -> tuple[Envelope, bytes]:
    """Return envelope and message of a payload that is signed with a key."""
    if not is_sealed(payload):
        advice = _unsigned_advice(sender) if payload else "it is empty, somebody has cleared it at the broker"
        raise MessageRefused(sender=sender, reason="unsigned", advice=advice)
    try:
        envelope, message = open_envelope(payload)
    except MessageError as error:
        raise MessageRefused(sender=sender, reason="forged", advice=str(error)) from error
    if envelope.counter >= MAX_COUNTER or not envelope.is_by(key, topic=topic, message=message):
        raise MessageRefused(
            sender=sender,
            reason="forged",
            advice="its signature is not that of the key which belongs to this name and topic",
        )
    return envelope, message


def _valid_s(kind: str, payload: bytes) -> int:
    if kind != "manifest":
        return MANIFEST_VALID_S
    over = decode_message(payload, Manifest).state in ("finished", "failed")
    return LAST_MANIFEST_VALID_S if over else MANIFEST_VALID_S


def _unsigned_advice(sender: str) -> str:
    if sender == "the coordinator":
        return "start it with --credentials keys/coordinator"
    return (
        f"start that client with --credentials (hedgerow keys token {sender}, then hedgerow keys join there)"
    )
