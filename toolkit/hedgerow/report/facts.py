"""What the page tells about a run, collected from its journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from hedgerow.exporting import last_export
from hedgerow_coordinator import (
    ClientSummary,
    EventRecord,
    RoundRecord,
    RunStore,
    StoreError,
    UpdateRecord,
)

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run at one moment.

    Parameters
    ----------
    run_id, metric : str
        Id of the run, and the name of what `RoundRecord.accuracy` holds.
    planned_rounds : int
        Rounds of the plan, from 1.
    has_test_data : bool
        Whether the plan names any; without, nothing is measured.
    created : float
        Unix time.
    attempts : tuple of RoundRecord
        Every attempt at every round from 1, in order.
    clients, events : tuple
    traffic : Mapping[tuple[str, str], int]
        PUBLISH bytes by direction (``received`` and ``sent`` by the coordinator, ``delivered`` to the
        clients) and topic kind.
    open_updates : tuple of UpdateRecord
        Taken in for a round that is not committed.
    num_parameters : int or None
        Of the model; None where no checkpoint could be read.
    density : float or None
        Of the newest version, in (0, 1]; None where no checkpoint could be read.
    plan : str
        The plan's file as it was given.
    unread : str
        Why no checkpoint could be read; else empty.
    export : str
        The table of the run's last export; empty where there was none.
    """

    run_id: str
    metric: str
    planned_rounds: int
    has_test_data: bool
    created: float
    attempts: tuple[RoundRecord, ...] = ()
    clients: tuple[ClientSummary, ...] = ()
    events: tuple[EventRecord, ...] = ()
    traffic: Mapping[tuple[str, str], int] = field(default_factory=dict)
    open_updates: tuple[UpdateRecord, ...] = ()
    num_parameters: int | None = None
    density: float | None = None
    plan: str = ""
    unread: str = ""
    export: str = ""

    @property
    def committed(self) -> tuple[RoundRecord, ...]:
        """The attempts that made a version, one for each round."""
        return tuple(record for record in self.attempts if record.status == "committed")

    @property
    def measured(self) -> tuple[RoundRecord, ...]:
        """The committed rounds whose version was measured."""
        return tuple(record for record in self.committed if record.accuracy is not None)

    @property
    def uplink_bytes(self) -> int:
        """Received by the coordinator up to the last committed round."""
        return sum(record.uplink_bytes for record in self.committed)

    @property
    def broadcast_bytes(self) -> int:
        """Sent by the coordinator up to the last committed round, each publish once."""
        return sum(record.broadcast_bytes for record in self.committed)

    @property
    def downlink_bytes(self) -> int:
        """Received by the clients as they told with their updates and, where they could, on leaving."""
        farewells = self.traffic.get(("delivered", "farewell"), 0)
        return sum(record.delivered_bytes for record in self.committed) + farewells

    @property
    def dense_bytes(self) -> int | None:
        """Dense float32 for the same rounds, one way: 4 bytes for each parameter of each update. Computed."""
        if self.num_parameters is None:
            return None
        return FLOAT32_BYTES * self.num_parameters * sum(record.updates for record in self.committed)

    @property
    def seconds(self) -> float:
        """Spent in rounds, failed attempts included, waiting for clients not."""
        return sum(record.seconds for record in self.attempts)

    @property
    def cumulative_uplink(self) -> tuple[int, ...]:
        """Uplink bytes up to and with each committed round."""
        return tuple(accumulate(record.uplink_bytes for record in self.committed))

    @property
    def finished(self) -> bool:
        """Whether the plan's last round is committed."""
        return bool(self.committed) and self.committed[-1].round == self.planned_rounds

    @property
    def failure(self) -> str:
        """Why the run has failed; empty when it goes on, has finished, or was taken up again since."""
        if self.finished:
            return ""
        last_end = max((record.ended for record in self.committed), default=0.0)
        failed = [event for event in self.events if event.kind == "failed" and event.time >= last_end]
        return failed[-1].detail if failed else ""


def collect_facts(store: RunStore) -> RunFacts:
    """Read what the page needs from an open run.

    Raises
    ------
    hedgerow_coordinator.StoreError
        When the journal cannot be read.
    """
    # Round 0 is the model before the first round: nobody was asked and nothing was sent.
    attempts = tuple(record for record in store.rounds() if record.round > 0)
    committed = {record.round for record in attempts if record.status == "committed"}
    num_parameters, density, unread = _model(store)
    return RunFacts(
        run_id=store.run_id,
        metric=store.plan.evaluate.metric,
        planned_rounds=store.plan.run.rounds,
        has_test_data=store.plan.evaluate.data is not None,
        created=store.created,
        attempts=attempts,
        clients=tuple(store.clients()),
        events=tuple(store.events()),
        traffic=store.traffic(),
        open_updates=tuple(u for u in store.update_records() if u.round not in committed),
        num_parameters=num_parameters,
        density=density,
        plan=store.plan.source.decode("utf-8-sig").strip(),
        unread=unread,
        export=last_export(store.directory),
    )


def _model(store: RunStore) -> tuple[int | None, float | None, str]:
    try:
        latest = store.latest()
    except StoreError as error:
        # A page about a run with a lost checkpoint is worth having.
        return None, None, str(error)
    if latest is None:
        return None, None, "no version has been made yet"
    mask = latest[1].mask
    return mask.layout.num_parameters, mask.density, ""
