"""The coordinator process: one link, one run; the only place where they meet a clock."""

from __future__ import annotations

import io
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_coordinator.coordinator import Coordinator
from hedgerow_coordinator.errors import CoordinatorError, StoreError, StoreNotFound
from hedgerow_coordinator.evaluation import evaluator, read_test_data
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.store import RunStore
from hedgerow_transport import (
    RENEW_S,
    BrokerError,
    BrokerUnreachable,
    Connected,
    CoordinatorState,
    Credentials,
    Disconnected,
    Guard,
    Link,
    LinkEvent,
    LinkOverflow,
    MessageError,
    MqttLink,
    Publication,
    Received,
    Refused,
    SignedLink,
    SignedWill,
    Topics,
    Traffic,
    Will,
    ask_broker,
    decode_message,
    fitting_chunk_bytes,
    write_durably,
)

LONGEST_SLEEP_S = 0.5
# How long a retained word of another coordinator may take to arrive.
RIVAL_WAIT_S = 0.3
# Waits this long before a full outgoing queue is tried again.
OVERFLOW_PAUSE_S = 0.05
RETRY_S = 5.0
# A clock that is set moves by more, a clock that is only slow by less.
CLOCK_JUMP_S = 60.0
# Of the model only so much is handed to the link at a time: what is queued there delays every answer.
SEND_AHEAD_BYTES = 1 << 20
# Some real inputs stay with the run, so that an export can be checked wherever the run directory goes.
CHECK_DATA = "check.npz"
CHECK_ROWS = 1000


T = TypeVar("T")


class RivalError(CoordinatorError):
    """Another coordinator leads a run in the same namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a coordinator's process ended.

    Parameters
    ----------
    finished
        Whether the run has had all its rounds.
    failure
        Why the run failed; empty when it did not.
    version
        Rounds that are committed.
    """

    finished: bool
    failure: str
    version: int


def open_run(plan: Plan, *, directory: Path, template: bytes, run_id: str | None = None) -> RunStore:
    """Open the run in `directory`, or create it there.

    Parameters
    ----------
    plan
        What to do.
    directory
        The run directory.
    template
        The ONNX template, copied into a new run.
    run_id
        Of a new run; by default the plan's name with something random, since clients remember runs by it.

    Raises
    ------
    hedgerow_coordinator.errors.StoreError
        When the folder holds something else, another plan's run, or a run in use, or cannot be written.
    hedgerow_coordinator.errors.PlanError
        When the plan's test data cannot be read.
    """
    # Read before anything is made, so that a fault leaves nothing behind.
    test_data = None if plan.evaluate_path is None else read_test_data(plan.evaluate_path)
    try:
        store = RunStore.open(directory, plan=plan)
    except StoreNotFound:
        fresh_id = run_id or f"{plan.run.name}-{secrets.token_hex(3)}"
        store = RunStore.create(directory, plan_bytes=plan.source, template_bytes=template, run_id=fresh_id)
    path = directory / CHECK_DATA
    if test_data is not None and not path.exists():
        try:
            write_durably(path, _packed(*(array[:CHECK_ROWS] for array in test_data)))
        except OSError as error:
            store.close()
            raise StoreError(f"cannot write {path}: {error.strerror or error}", path=path) from error
    return store


def _packed(inputs: NDArray[np.generic], targets: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, inputs=inputs, targets=targets)
    return buffer.getvalue()


def flat_traffic(traffic: Traffic) -> dict[tuple[str, str], int]:
    """Return a link's byte counters by (direction, topic kind)."""
    return {
        (direction, kind): counts["bytes"]
        for direction, kinds in traffic.snapshot().items()
        for kind, counts in kinds.items()
    }


class CoordinatorAgent:
    """Lead a run over MQTT until it ends or is told to stop.

    Parameters
    ----------
    plan
        What to do.
    broker
        ``mqtt://[user:password@]host[:port]``.
    store
        The open run.
    layout
        The model's layout.
    say
        Prints one sentence for the person at the gateway.
    credentials
        With which messages are signed and signatures checked; None for neither.
    wait_for_broker
        Try again while the broker cannot be reached at the start, instead of giving up.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        broker: str,
        store: RunStore,
        layout: Layout,
        say: Callable[[str], None],
        credentials: Credentials | None = None,
        wait_for_broker: bool = False,
    ) -> None:
        self._wait_for_broker = wait_for_broker
        self._plan = plan
        self._broker = broker
        self._store = store
        self._layout = layout
        self._say = say
        self._credentials = credentials
        topics = Topics(plan.transport.namespace)
        self._guard = None if credentials is None else Guard(credentials, topics=topics)
        self._announce_at = time.monotonic() + RENEW_S
        self._clock_offset = time.time() - time.monotonic()
        self._link: Link | None = None
        self._mqtt: MqttLink | None = None

    def run(self, stop: threading.Event) -> Outcome:
        """Lead the run; return how it ended.

        Raises
        ------
        hedgerow_coordinator.errors.CoordinatorError
            When the plan does not fit the model, the run directory fails, or another coordinator is there.
        hedgerow_transport.BrokerError
            When the broker cannot be reached or refuses.
        """
        template = self._store.template_bytes()
        topics = Topics(self._plan.transport.namespace)
        plan = self._patiently(self._fitted_plan, stop)
        if plan is None:
            return self._unreached()
        coordinator = Coordinator(
            plan,
            layout=self._layout,
            store=self._store,
            first_weights=lambda: _template_weights(template),
            evaluate=evaluator(self._plan, template=template, layout=self._layout),
            read_traffic=self._traffic,
            room=self._room,
        )

        def testament() -> Publication:
            return coordinator.presence(online=False, message="connection lost")

        guard = self._guard
        mqtt = MqttLink(
            self._broker,
            client_id=self._client_id(),
            filters=(*topics.coordinator_filters(), topics.coordinator),
            wants=lambda topic: coordinator.hears(topic, now=time.monotonic()),
            will=(
                SignedWill(guard, topic=topics.coordinator, make=lambda: testament().payload)
                if guard
                else lambda: Will(topic=topics.coordinator, payload=testament().payload)
            ),
        )

        def connect() -> MqttLink:
            mqtt.connect()
            return mqtt

        if self._patiently(connect, stop) is None:
            mqtt.close()
            return self._unreached()
        link = self._link = SignedLink(mqtt, guard) if guard else mqtt
        self._mqtt = mqtt
        try:
            early = self._listen(link, topics)
            if coordinator.resumed_from:
                self._say(f"going on after round {coordinator.resumed_from}")
            self._lead(coordinator, link, early=early, stop=stop)
            # The end of a run stands in its manifest; nothing is to be said about it a second time.
            message = "" if coordinator.done else "stopped; it will go on when it is started again"
            coordinator.sum_up_refusals()
            self._say_notices(coordinator)
            farewell = coordinator.presence(online=False, message=message)
            link.publish(farewell.topic, farewell.payload, retain=True, qos=1)
        except BaseException:
            # Without a farewell the broker publishes the will: devices learn that nobody is here.
            link.close(graceful=False)
            raise
        link.close()
        return Outcome(
            finished=coordinator.done and coordinator.failure is None,
            failure=coordinator.failure or "",
            version=coordinator.state.version,
        )

    def _patiently(self, step: Callable[[], T], stop: threading.Event) -> T | None:
        """Return what `step` does, repeated while the broker cannot be reached; None when told to stop."""
        while not stop.is_set():
            try:
                return step()
            except BrokerUnreachable as error:
                if not self._wait_for_broker:
                    raise
                self._say(f"{error}; trying again in {RETRY_S:.0f} s")
                stop.wait(RETRY_S)
        return None

    def _unreached(self) -> Outcome:
        latest = self._store.latest()
        return Outcome(finished=False, failure="", version=0 if latest is None else latest[0])

    def _fitted_plan(self) -> Plan:
        """Return the plan with chunks that fit what the broker tells of itself."""
        wanted = self._plan.transport.chunk_bytes
        limit = ask_broker(self._broker).max_packet_bytes
        fitting = fitting_chunk_bytes(wanted, max_packet_bytes=limit)
        if fitting == wanted:
            return self._plan
        if fitting == 0:
            raise BrokerError(f"the broker takes packets of at most {limit} bytes, less than one chunk")
        self._say(f"the broker takes packets of {limit:,} bytes: sending chunks of {fitting:,} bytes")
        return replace(self._plan, transport=replace(self._plan.transport, chunk_bytes=fitting))

    def _traffic(self) -> dict[tuple[str, str], int]:
        return {} if self._link is None else flat_traffic(self._link.traffic)

    def _room(self) -> int:
        # What is sent while the link is down is lost.
        if self._mqtt is None or not self._mqtt.connected:
            return 0
        return SEND_AHEAD_BYTES - self._mqtt.queued_bytes

    def _client_id(self) -> str:
        """Return the name at the broker: always the same, so that a restart takes the old link over."""
        name = f"hedgerow-{self._plan.transport.namespace}--coordinator-{self._store.run_id}"
        if self._credentials is None:
            return name
        # Whoever knew the whole name could throw the coordinator out; the id of the run is in every manifest.
        return f"{name}-{self._credentials.signing_key.derive(name.encode(), num_bytes=4).hex()}"

    def _listen(self, link: Link, topics: Topics) -> list[LinkEvent]:
        """Look whether another coordinator is here; return what else came in meanwhile."""
        early: list[LinkEvent] = []
        end = time.monotonic() + RIVAL_WAIT_S
        while time.monotonic() < end:
            try:
                event = link.events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if not isinstance(event, Received | Refused):
                continue
            if isinstance(event, Refused) or event.topic != topics.coordinator:
                early.append(event)
                continue
            try:
                state = decode_message(event.payload, CoordinatorState)
            except MessageError:
                continue
            if state.online and state.run != self._store.run_id:
                raise RivalError(
                    f"run '{state.run}' is led in namespace '{self._plan.transport.namespace}' already: "
                    "wait for its end, or set another [transport] namespace"
                )
        link.unsubscribe([topics.coordinator])
        return early

    def _lead(
        self, coordinator: Coordinator, link: Link, *, early: list[LinkEvent], stop: threading.Event
    ) -> None:
        coordinator.connected()
        coordinator.start(time.monotonic())
        for event in early:
            self._take(event, coordinator)
        while not stop.is_set():
            self._flush(coordinator, link, stop)
            if coordinator.done:
                return
            now = time.monotonic()
            if self._guard is not None and self._must_renew(now):
                coordinator.connected()
                continue
            wake = now + LONGEST_SLEEP_S
            if coordinator.wake_at is not None:
                wake = min(wake, coordinator.wake_at)
            try:
                event = link.events.get(timeout=max(0.0, wake - now))
            except queue.Empty:
                coordinator.tick(time.monotonic())
                continue
            self._take(event, coordinator)

    def _must_renew(self, now: float) -> bool:
        """Say whether it is time to sign anew what is retained: it is good for some time only."""
        offset = time.time() - now
        # A gateway without a clock of its own has come up in the past, and has learned the time now.
        jumped = abs(offset - self._clock_offset) > CLOCK_JUMP_S
        if not jumped and now < self._announce_at:
            return False
        self._announce_at, self._clock_offset = now + RENEW_S, offset
        return True

    def _take(self, event: LinkEvent, coordinator: Coordinator) -> None:
        if isinstance(event, Connected):
            coordinator.connected()
        elif isinstance(event, Disconnected):
            coordinator.disconnected()
            self._say(f"the link to the broker is down: {event.reason}; it comes back by itself")
            if event.fatal:
                raise RivalError(f"the broker has put this coordinator off: {event.reason}")
        elif isinstance(event, Refused):
            coordinator.refuse(event.refusal, topic=event.topic, now=time.monotonic())
        else:
            coordinator.handle(event.topic, event.payload, now=time.monotonic())

    def _flush(self, coordinator: Coordinator, link: Link, stop: threading.Event) -> None:
        """Hand over what waits to be published; where the link's queue is full, wait until it has room."""
        for publication in coordinator.take_publications():
            while not stop.is_set():
                try:
                    link.publish(
                        publication.topic, publication.payload, retain=publication.retain, qos=publication.qos
                    )
                    break
                except LinkOverflow:
                    stop.wait(OVERFLOW_PAUSE_S)
        self._say_notices(coordinator)

    def _say_notices(self, coordinator: Coordinator) -> None:
        for notice in coordinator.take_notices():
            self._say(notice)


def _template_weights(template: bytes) -> NDArray[np.float32]:
    from hedgerow_export import template_parameters

    return template_parameters(template)
