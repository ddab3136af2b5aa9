"""Topics: ``hedgerow/1/<namespace>/...``. Where a message goes is where it says what it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hedgerow_transport.errors import TopicError

NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,31}"
TOPIC_ROOT = "hedgerow/1"
UP_KINDS = ("offer", "chunk", "decline", "sync", "state", "report")
DIGEST_BYTES = 16


def check_name(name: str, *, what: str = "client name") -> str:
    """Return a namespace or client name unchanged.

    Raises
    ------
    TopicError
        When it does not match `NAME_PATTERN`.
    """
    if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None:
        raise TopicError(
            f"{what} {str(name)[:64]!r}: use 1 to 32 of a-z, 0-9, '-' and '_', with a letter or digit first"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTopic:
    """What a topic says: its kind (``manifest``, ``offer``, ...), and the client or blob that it names."""

    kind: str
    client: str | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one namespace.

    >>> Topics("farm").up("pi-3", "offer")
    'hedgerow/1/farm/up/pi-3/offer'
    """

    namespace: str

    def __post_init__(self) -> None:
        check_name(self.namespace, what="namespace")

    @property
    def manifest(self) -> str:
        """The retained `Manifest`."""
        return self._topic("manifest")

    @property
    def coordinator(self) -> str:
        """The retained `CoordinatorState`, and the coordinator's will."""
        return self._topic("coordinator")

    @property
    def delivery(self) -> str:
        """The retained `Delivery`."""
        return self._topic("delivery")

    @property
    def need(self) -> str:
        """Where clients ask for chunks with `Need`."""
        return self._topic("need")

    def blob(self, digest: bytes) -> str:
        """Where the chunks of a blob are broadcast."""
        if len(digest) != DIGEST_BYTES:
            raise TopicError(f"a digest has {DIGEST_BYTES} bytes, this one {len(digest)}")
        return self._topic(f"blob/{digest.hex()}")

    def up(self, client: str, kind: str) -> str:
        """Where a client sends to the coordinator; `kind` is one of `UP_KINDS`."""
        if kind not in UP_KINDS:
            raise TopicError(f"kind {kind!r}: use one of {', '.join(UP_KINDS)}")
        return self._topic(f"up/{check_name(client)}/{kind}")

    def down(self, client: str) -> str:
        """Where the coordinator answers one client with `Accept`, `Ack` or `Route`."""
        return self._topic(f"down/{check_name(client)}")

    def presence(self, client: str) -> str:
        """The retained `Presence` of a client, and its will."""
        return self._topic(f"presence/{check_name(client)}")

    @property
    def births(self) -> str:
        """What the topics of all `Presence` messages begin with."""
        return self._topic("presence/")

    @property
    def presence_filter(self) -> str:
        """Selects the `Presence` of every client."""
        return self._topic("presence/+")

    @property
    def state_filter(self) -> str:
        """Selects the `DeviceState` of every client."""
        return self._topic("up/+/state")

    def client_filters(self, client: str) -> tuple[str, ...]:
        """Return what a client subscribes to."""
        return (self.manifest, self.coordinator, self._topic("blob/+"), self.down(client), self.delivery)

    def deliverer_filters(self) -> tuple[str, ...]:
        """Return what whoever delivers a model subscribes to."""
        reports = self._topic("up/+/report")
        return (self.need, reports, self.presence_filter, self.manifest, self.delivery)

    def coordinator_filters(self) -> tuple[str, ...]:
        """Return what a coordinator subscribes to."""
        return (self.need, self._topic("up/+/+"), self.presence_filter)

    def parse(self, topic: str) -> ParsedTopic:
        """Say what a topic of this namespace means.

        Raises
        ------
        TopicError
            For a topic of another namespace, or one that none of the methods above makes.
        """
        parsed = parse_topic(topic)
        if parsed is None or not topic.startswith(self._topic("")):
            raise TopicError(f"{topic[:120]!r} is not a topic of the namespace {self.namespace}")
        return parsed

    def _topic(self, rest: str) -> str:
        return f"{TOPIC_ROOT}/{self.namespace}/{rest}"


_TOPIC = re.compile(
    rf"{TOPIC_ROOT}/{NAME_PATTERN}/(?:"
    r"(?P<plain>manifest|coordinator|need|delivery)"
    rf"|blob/(?P<digest>[0-9a-f]{{{2 * DIGEST_BYTES}}})"
    rf"|up/(?P<sender>{NAME_PATTERN})/(?P<up>{'|'.join(UP_KINDS)})"
    rf"|(?P<single>down|presence)/(?P<client>{NAME_PATTERN})"
    r")"
)


def parse_topic(topic: str) -> ParsedTopic | None:
    """Say what a topic of any namespace means, or None when it is not one of ours."""
    match = _TOPIC.fullmatch(topic)
    if match is None:
        return None
    if match["plain"]:
        return ParsedTopic(kind=match["plain"])
    if match["digest"]:
        return ParsedTopic(kind="blob", digest=bytes.fromhex(match["digest"]))
    if match["up"]:
        return ParsedTopic(kind=match["up"], client=match["sender"])
    return ParsedTopic(kind=match["single"], client=match["client"])
