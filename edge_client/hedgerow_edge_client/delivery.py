"""The client's side of a delivery as a pure state machine: fetch a model, have it tried, switch or stay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from hedgerow_edge_client.actions import Say
from hedgerow_edge_client.errors import StateError
from hedgerow_edge_client.fetch import Fetch
from hedgerow_edge_client.model_shelf import ModelShelf
from hedgerow_export import find_metric, is_as_good
from hedgerow_transport import (
    BlobError,
    Delivery,
    DeliveryReport,
    MessageError,
    Publication,
    TopicError,
    Topics,
    decode_chunk,
    decode_message,
    keep_parts,
)

# The same offer that comes again so soon was answered already.
ANSWER_PAUSE_S = 2.0
MAX_GARBAGE_NOTICES = 20
Told = Publication | Say


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A model that is to be tried on local data.

    Attributes
    ----------
    delivery : Delivery
    model : bytes
    current : bytes or None
        The model in use.
    """

    delivery: Delivery
    model: bytes
    current: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a trial has come to.

    Attributes
    ----------
    refusal : str
        Why the model cannot be used; empty where it can.
    passing : bool
        Whether the cause is this moment's, so that it is tried again when it is offered again.
    metric : str
    before, after : float or None
        Of the model in use, where there is one that runs, and of the new one.
    samples : int
    p50_ms : float or None
    ranges : bytes
        Coded histograms, where they were asked for.
    """

    refusal: str = ""
    passing: bool = False
    metric: str = ""
    before: float | None = None
    after: float | None = None
    samples: int = 0
    p50_ms: float | None = None
    ranges: bytes = b""


class DeliverySession:
    """Follow what is delivered to one device.

    Parameters
    ----------
    client
        This device's name.
    topics
        The names of the namespace.
    shelf
        Keeps the models.
    jitter
        Returns a number in [0, 1).
    heard_at
        Returns when the link last carried anything to here, on the caller's clock.
    room
        Returns how many bytes a model may have, for this device's memory and disk.
    wall_clock
        Returns the Unix time.
    """

    def __init__(
        self,
        client: str,
        *,
        topics: Topics,
        shelf: ModelShelf,
        jitter: Callable[[], float],
        heard_at: Callable[[], float] = lambda: -math.inf,
        room: Callable[[], int] = lambda: 1 << 30,
        wall_clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.client = client
        self._topics = topics
        self._shelf = shelf
        self._jitter = jitter
        self._heard_at = heard_at
        self._room = room
        self._wall_clock = wall_clock
        self._delivery: Delivery | None = None
        self._fetch: Fetch | None = None
        self._trial: Trial | None = None
        # An answer that is not worth keeping: another moment may give another one.
        self._passing: DeliveryReport | None = None
        self._answered_at = -math.inf
        self._garbage = 0

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        return None if self._fetch is None else self._fetch.wake_at

    @property
    def trial(self) -> Trial | None:
        """What is to be tried now, until `tried` is called; another one when a new delivery has come."""
        return self._trial

    def connected(self, now: float) -> None:
        """Take up what the lost connection interrupted; the broker says again what is on offer."""
        if self._fetch is not None:
            self._fetch.start(now)

    def handle(self, topic: str, payload: bytes, *, now: float) -> list[Told]:
        """Take one message; those that are about something else have no effect."""
        try:
            parsed = self._topics.parse(topic)
            if parsed.kind == "delivery" and payload:
                return self._on_delivery(decode_message(payload, Delivery), now)
            if parsed.kind == "blob" and parsed.digest is not None:
                return self._on_chunk(parsed.digest, payload, now)
        except (MessageError, TopicError, BlobError) as error:
            self._garbage += 1
            if self._garbage <= MAX_GARBAGE_NOTICES:
                return [Say(text=f"ignored a message on {topic[:120]}: {error}", level="warning")]
        return []

    def tick(self, now: float) -> list[Told]:
        """Return what time alone has made due."""
        return [] if self._fetch is None else list(self._fetch.tick(now))

    def tried(self, result: TrialResult, *, now: float) -> list[Told]:
        """Judge what a trial has come to: put the model in use, or stay with the one that is."""
        trial, self._trial = self._trial, None
        if trial is None:
            return []
        delivery = trial.delivery
        numbers = {"before": result.before, "after": result.after, "p50_ms": result.p50_ms}
        told = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
        report = replace(
            self._report(delivery, "refused", reason=result.refusal),
            metric=result.metric,
            numbers=told | ({"samples": result.samples} if result.samples else {}),
        )
        if not result.refusal:
            outcome, reason = _verdict(delivery, result)
            report = replace(report, ranges=result.ranges, outcome=outcome, reason=reason)
        try:
            if report.outcome == "accepted":
                report = replace(report, in_use=delivery.model.digest)
                self._shelf.switch(delivery.model.digest, report)
            elif result.passing:
                self._passing = report
            else:
                self._shelf.note(report)
            self._shelf.clear()
        except StateError as error:
            report = replace(report, outcome="refused", reason=str(error), in_use=self._in_use())
            self._passing = report
        return [Say(text=_sentence(report, delivery)), self._publish(report, now)]

    # -- offers ---------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery, now: float) -> list[Told]:
        before, self._delivery = self._delivery, delivery
        if delivery == before:
            return [] if now < self._answered_at + ANSWER_PAUSE_S else self._again(now)
        if before is None or before.key != delivery.key:
            self._fetch = self._trial = self._passing = None
        elif not delivery.open:
            # What has come stays on the disk.
            self._fetch = None
        return self._begin(delivery, now) if delivery.is_for(self.client) else []

    def _begin(self, delivery: Delivery, now: float) -> list[Told]:
        if self._answer(delivery) is not None or self._trial is not None or self._fetch is not None:
            return self._again(now)
        ref = delivery.model
        model = self._shelf.read(ref.digest)
        if model is not None:
            return self._begin_trial(delivery, model, now)
        if not delivery.open:
            return []
        room = self._room()
        if ref.size > room:
            reason = f"it has {ref.size:,} bytes, and this device has room for {room:,}"
            self._passing = self._report(delivery, "refused", reason=reason)
            return self._again(now)
        self._fetch = Fetch(
            [ref],
            chunk_bytes=delivery.chunk_bytes,
            topics=self._topics,
            jitter=self._jitter,
            directory=self._shelf.parts,
            heard_at=self._heard_at,
        )
        keep_parts(self._shelf.parts, [ref.digest])
        self._fetch.start(now)
        told = self._after_fetch(now)
        started = Say(text=f"fetching an exported model of {ref.size:,} bytes ({_short(ref.digest)})")
        return told or [started, self._publish(self._report(delivery, "fetching"), now)]

    def _on_chunk(self, digest: bytes, payload: bytes, now: float) -> list[Told]:
        delivery, fetch = self._delivery, self._fetch
        if delivery is None or fetch is None or digest != delivery.model.digest:
            return []
        index, data = decode_chunk(payload, max_bytes=delivery.chunk_bytes)
        fetch.add(digest, index, data, now=now)
        return self._after_fetch(now)

    def _after_fetch(self, now: float) -> list[Told]:
        delivery, fetch = self._delivery, self._fetch
        if delivery is None or fetch is None or not fetch.complete:
            return []
        self._fetch = None
        model = fetch.data(delivery.model.digest)
        try:
            self._shelf.clear()
            self._shelf.stage(model)
        except StateError as error:
            self._passing = self._report(delivery, "refused", reason=str(error))
            return self._again(now)
        keep_parts(self._shelf.parts, [])
        return self._begin_trial(delivery, model, now)

    def _begin_trial(self, delivery: Delivery, model: bytes, now: float) -> list[Told]:
        found = self._shelf.load()
        self._trial = Trial(delivery=delivery, model=model, current=None if found is None else found[1])
        return [self._publish(self._report(delivery, "trying"), now)]

    # -- answers --------------------------------------------------------------------------------------

    def _answer(self, delivery: Delivery) -> DeliveryReport | None:
        """Return what has been answered already."""
        if self._passing is not None and self._passing.key == delivery.key:
            return self._passing
        return self._shelf.report_on(delivery.key)

    def _again(self, now: float) -> list[Told]:
        """Say again how the delivery stands: somebody has asked, or may not have heard."""
        delivery = self._delivery
        if delivery is None or not delivery.is_for(self.client):
            return []
        report = self._answer(delivery)
        if report is None and (self._trial is not None or self._fetch is not None):
            report = self._report(delivery, "fetching" if self._trial is None else "trying")
        return [] if report is None else [self._publish(report, now)]

    def _report(self, delivery: Delivery, outcome: str, *, reason: str = "") -> DeliveryReport:
        digest, purpose, serial, max_drop = delivery.key
        return DeliveryReport(
            model=digest,
            purpose=purpose,
            serial=serial,
            max_drop=max_drop,
            outcome=outcome,
            reason=reason,
            in_use=self._in_use(),
            at=max(0, int(self._wall_clock())),
        )

    def _in_use(self) -> bytes:
        return self._shelf.look().current

    def _publish(self, report: DeliveryReport, now: float) -> Publication:
        self._answered_at = now
        topic = self._topics.up(self.client, "report")
        # Histograms are nobody's but of whoever has asked; they do not stay at the broker.
        retain = report.is_final and report.purpose == "use"
        return Publication(topic=topic, payload=report.encode(), retain=retain, qos=1)


def _verdict(delivery: Delivery, result: TrialResult) -> tuple[str, str]:
    """Return outcome and reason for a model that runs."""
    if delivery.purpose == "calibrate":
        return "measured", ""
    if result.after is None:
        return "refused", "the trial has measured nothing"
    if result.before is None:
        finite = math.isfinite(result.after)
        return ("accepted", "") if finite else _not_finite(result.metric)
    as_good = is_as_good(
        find_metric(result.metric),
        before=result.before,
        after=result.after,
        samples=max(1, result.samples),
        drop_points=delivery.max_drop,
    )
    if as_good:
        return "accepted", ""
    if not math.isfinite(result.after):
        return _not_finite(result.metric)
    return "worse", "the model before stays in use"


def _not_finite(metric: str) -> tuple[str, str]:
    return "refused", f"its {metric} is not a finite number"


def _sentence(report: DeliveryReport, delivery: Delivery) -> str:
    name = f"the delivered model ({_short(delivery.model.digest)})"
    if report.outcome == "measured":
        return f"{name}: told the ranges of its activations in {len(report.ranges):,} bytes"
    if report.outcome == "refused":
        return f"{name} is refused: {report.reason}"
    before, after = report.numbers.get("before"), report.numbers.get("after", math.nan)
    first = "" if before is None else f"{before:.4f} -> "
    measured = f"{report.metric} {first}{after:.4f} on {report.numbers.get('samples', 0):.0f} samples"
    if report.outcome == "accepted":
        return f"{name} is in use: {measured}"
    return f"{name} is worse, the one before stays in use: {measured}"


def _short(digest: bytes) -> str:
    return digest.hex()[:8]
