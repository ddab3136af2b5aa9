"""End a run: finished or failed, said to everybody, with a short wait for those who still fetch the model."""

from __future__ import annotations

from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.phases.absent import NoIntake
from hedgerow_coordinator.phases.phase import Phase

# How long the last version stays on offer once nobody asks for it any more.
LINGER_S = 3.0
# However long they ask.
LONGEST_LINGER_S = 600.0


class Close(NoIntake):
    """Publish the end of the run and wait until the clients have left or nobody asks any more.

    Parameters
    ----------
    federation
        The run.
    failure
        Why the run failed; None when it is finished.
    """

    name = "close"

    def __init__(self, federation: Federation, *, failure: str | None = None) -> None:
        super().__init__(federation)
        self.failure = failure
        self.done = False
        self._entered = self._told = 0.0
        self._waits_for_link = False

    @property
    def wake_at(self) -> float | None:
        """When the last version is taken off."""
        return None if self.done else self._leave_at

    @property
    def _leave_at(self) -> float:
        longest = self._entered + LONGEST_LINGER_S
        if not self._federation.reachable:
            return longest
        busy = max(self._told, self._federation.broadcast.busy_until)
        return min(busy + LINGER_S, longest)

    def enter(self, now: float) -> Phase | None:
        """Say how the run ended."""
        federation = self._federation
        self._entered = self._told = now
        if self.failure is None:
            federation.publish_manifest("finished")
            federation.store.event("finished", f"{federation.state.version} rounds")
        else:
            federation.publish_manifest("failed", reason=self.failure)
            federation.store.event("failed", self.failure)
        return None

    def tick(self, now: float) -> Phase | None:
        """End when everybody has left, or when the time is over."""
        federation = self._federation
        if not federation.reachable:
            # Who does not hear of the end would wait for ever.
            self._waits_for_link = True
        elif self._waits_for_link:
            self._waits_for_link, self._told = False, now
        nobody = federation.reachable and not federation.attendance.online
        if not self.done and (now >= self._leave_at or nobody):
            self.done = True
            federation.store.record_traffic(federation.state.version, federation.traffic_since_last())
        return None
