"""Wait until enough clients are there for a round."""

from __future__ import annotations

from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.phases.absent import NoIntake
from hedgerow_coordinator.phases.phase import Phase


class Gather(NoIntake):
    """Wait for the plan's `min_clients` before the first round of a process, for a quorum of them later.

    Parameters
    ----------
    federation
        The run.
    wanted
        How many clients must be there.
    """

    name = "gather"

    def __init__(self, federation: Federation, *, wanted: int) -> None:
        super().__init__(federation)
        self._wanted = wanted
        self._give_up_at: float | None = None
        self._said = -1

    @property
    def wake_at(self) -> float | None:
        """When the join timeout ends."""
        return self._give_up_at

    def enter(self, now: float) -> Phase | None:
        """Publish the run, so that clients can fetch the model while the others come."""
        timeout_s = self._federation.plan.cohort.join_timeout_s
        self._give_up_at = now + timeout_s if timeout_s else None
        self._federation.publish_manifest("waiting")
        return self.tick(now)

    def tick(self, now: float) -> Phase | None:
        """Go on as soon as enough are there; fail when the time is over."""
        from hedgerow_coordinator.phases.close import Close
        from hedgerow_coordinator.phases.collect import Collect

        online = len(self._federation.attendance.online)
        if online >= self._wanted:
            return Collect(self._federation)
        if online != self._said:
            self._said = online
            self._federation.say(f"waiting for clients: {online} of {self._wanted} are there")
        if self._give_up_at is not None and now >= self._give_up_at:
            reason = f"only {online} of {self._wanted} clients came in time"
            return Close(self._federation, failure=reason)
        return None
