"""Wait until enough clients are there for a round."""

from __future__ import annotations

from hedgerow_coordinator.attendance import PATIENCE_S
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
    enough
        How many are enough after `PATIENCE_S`; None when only `wanted` are. The births of those who are there
        come one by one, and whoever comes last must not be left out of the round.
    """

    name = "gather"

    def __init__(self, federation: Federation, *, wanted: int, enough: int | None = None) -> None:
        super().__init__(federation)
        self._wanted = wanted
        self._enough = enough
        self._enough_at: float | None = None
        self._give_up_at: float | None = None
        self._said = -1

    @property
    def wake_at(self) -> float | None:
        """When fewer are enough, or the join timeout ends."""
        return min((at for at in (self._enough_at, self._give_up_at) if at is not None), default=None)

    def enter(self, now: float) -> Phase | None:
        """Publish the run, so that clients can fetch the model while the others come."""
        timeout_s = self._federation.plan.cohort.join_timeout_s
        self._give_up_at = now + timeout_s if timeout_s else None
        self._enough_at = None if self._enough is None else now + PATIENCE_S
        self._federation.publish_manifest("waiting")
        return self.tick(now)

    def tick(self, now: float) -> Phase | None:
        """Go on as soon as enough are there; fail when the time is over."""
        from hedgerow_coordinator.phases.close import Close
        from hedgerow_coordinator.phases.collect import Collect

        if self._enough is not None and self._enough_at is not None and now >= self._enough_at:
            self._wanted, self._enough_at = self._enough, None
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
