"""End a run: finished or failed, said to everybody, with a short wait for those who still fetch the model."""

from __future__ import annotations

from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.phases.absent import NoIntake
from hedgerow_coordinator.phases.phase import Phase

# How long the last version stays on offer once nobody asks for it any more.
LINGER_S = 3.0


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
        self._leave_at = 0.0

    @property
    def wake_at(self) -> float | None:
        """When the last version is taken off."""
        return None if self.done else self._leave_at

    def enter(self, now: float) -> Phase | None:
        """Say how the run ended."""
        federation = self._federation
        self._leave_at = now + LINGER_S
        if self.failure is None:
            federation.publish_manifest("finished")
            federation.store.event("finished", f"{federation.state.version} rounds")
        else:
            federation.publish_manifest("failed", reason=self.failure)
            federation.store.event("failed", self.failure)
        return None

    def tick(self, now: float) -> Phase | None:
        """End when everybody has left, or when the time is over."""
        if now >= self._leave_at or not self._federation.attendance.online:
            self.done = True
        return None
