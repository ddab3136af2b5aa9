"""One attempt at one round: invite a cohort, take in its updates, end at quorum or deadline."""

from __future__ import annotations

from dataclasses import replace

from hedgerow_coordinator.attendance import choose_cohort
from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.intake import Intake
from hedgerow_coordinator.phases.phase import Phase
from hedgerow_coordinator.records import RoundRecord
from hedgerow_transport import Decline, Offer


class Collect:
    """Collect updates until everybody has answered, or a quorum has and waiting is over, or time is up.

    The round closes at once when all of the cohort have answered, declined or gone and the answers make a
    quorum; `grace_s` after the quorum; and at the deadline. The attempt has failed when there is no quorum at
    the deadline, or none when all of the cohort have answered or declined; who has gone away may come back
    until then. Updates that came stay valid for the next attempt at the same round.

    Parameters
    ----------
    federation
        The run.
    """

    name = "collect"

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        pruning = federation.plan.pruning
        self._solo = pruning.policy != "none" and federation.round <= pruning.solo_rounds
        self._everybody = federation.plan.cohort.clients_per_round == 0 and not self._solo
        self._intake = Intake(federation)
        self._cohort: tuple[str, ...] = ()
        self._declined: dict[str, str] = {}
        self._started = 0.0
        self._started_wall = 0.0
        self._quorum = 1
        self._quorum_at: float | None = None
        self._looked_at = 0.0

    @property
    def wake_at(self) -> float | None:
        """The deadline, the end of the grace time, or when a client that dropped out counts as gone."""
        gone = [self._federation.attendance.gone_at(name) for name in self._open()]
        return min([self._end, *(at for at in gone if at is not None and at > self._looked_at)])

    def enter(self, now: float) -> Phase | None:
        """Choose the cohort and publish the round."""
        federation, cohort = self._federation, self._federation.plan.cohort
        self._started, self._started_wall = now, federation.wall_clock()
        self._cohort = choose_cohort(
            federation.attendance.online,
            size=1 if self._solo else cohort.clients_per_round,
            seed=federation.plan.run.seed,
            # The one that begins alone stays the same.
            round_number=1 if self._solo else federation.round,
        )
        self._quorum = cohort.quorum_of(len(self._cohort))
        federation.invited |= frozenset(self._cohort)
        if not self._everybody:
            self._intake.invited = federation.invited
        federation.publish_manifest("round", cohort=() if self._everybody else self._cohort)
        return self.tick(now)

    def offer(self, client: str, message: Offer, *, now: float) -> None:
        """Hand an offer to the intake."""
        self._note(client, self._intake.offer(client, message, now=now))
        if self._intake.awaits(client):
            self._declined.pop(client, None)

    def chunk(self, client: str, payload: bytes, *, now: float) -> bool:
        """Hand a chunk to the intake; return whether it was wanted."""
        before = self._intake.num_chunks
        self._note(client, self._intake.chunk(client, payload, now=now))
        return self._intake.num_chunks > before

    def decline(self, client: str, message: Decline) -> None:
        """Note that a client of the cohort will not answer."""
        if message.run == self._federation.store.run_id and message.round == self._federation.round:
            self._note(client, message.reason)

    def _note(self, client: str, reason: str | None) -> None:
        """Wait no longer for a client of the cohort that has no update that can be used."""
        if reason is None or client not in self._open():
            return
        self._declined[client] = reason
        self._federation.say(f"{client} has no update for round {self._federation.round}: {reason}")

    def tick(self, now: float) -> Phase | None:
        """Close the round when it is time."""
        from hedgerow_coordinator.phases.commit import Commit

        self._looked_at = now
        num_updates = self._intake.aggregator.num_updates
        enough = num_updates >= self._quorum
        if enough and self._quorum_at is None:
            self._quorum_at = now
        if enough and (now >= self._end or not self._awaited(now)):
            # They have answered, so they count for the quorum: a round does not wait for one that is ill.
            for client, reason in self._intake.leave_out_outliers().items():
                self._federation.say(f"round {self._federation.round} goes on without {client}: {reason}")
            return Commit(self._federation, intake=self._intake, attempt=self._record(now, "committed"))
        if now >= self._end or not self._open():
            return self._fail(now)
        return None

    @property
    def _end(self) -> float:
        settings = self._federation.plan.cohort
        deadline = self._started + settings.deadline_s
        return deadline if self._quorum_at is None else min(deadline, self._quorum_at + settings.grace_s)

    def _open(self) -> list[str]:
        has_answered = self._intake.has_answered
        return [n for n in self._cohort if not has_answered(n) and n not in self._declined]

    def _awaited(self, now: float) -> bool:
        gone = [self._federation.attendance.gone_at(name) for name in self._open()]
        return any(at is None or at > now for at in gone)

    def _fail(self, now: float) -> Phase:
        from hedgerow_coordinator.phases.close import Close
        from hedgerow_coordinator.phases.gather import Gather

        federation = self._federation
        reason = (
            f"{self._intake.aggregator.num_updates} of {len(self._cohort)} clients answered, "
            f"the quorum is {self._quorum}"
        )
        if self._declined:
            client, why = next(iter(self._declined.items()))
            reason += f"; {client} says: {why}"
        traffic = federation.traffic_since_last()
        federation.store.record_traffic(federation.round, traffic)
        federation.store.fail_round(
            replace(
                self._record(now, "failed", reason=reason),
                uplink_bytes=sum(num for (way, _), num in traffic.items() if way == "received"),
                broadcast_bytes=sum(num for (way, _), num in traffic.items() if way == "sent"),
            )
        )
        federation.say(f"round {federation.round}, attempt {federation.attempt} failed: {reason}")
        if federation.attempt >= federation.plan.cohort.max_failed_attempts:
            attempts = f"{federation.attempt} attempt" + ("s" if federation.attempt > 1 else "")
            return Close(federation, failure=f"round {federation.round} failed in {attempts}: {reason}")
        federation.attempt += 1
        return Gather(federation, wanted=1)

    def _record(self, now: float, status: str, *, reason: str = "") -> RoundRecord:
        federation = self._federation
        return RoundRecord(
            round=federation.round,
            attempt=federation.attempt,
            started=self._started_wall,
            ended=federation.wall_clock(),
            seconds=now - self._started,
            # Who came after the round had begun was asked by its manifest, too.
            cohort=len(self._intake.answered.union(self._cohort)),
            updates=self._intake.aggregator.num_updates,
            density=federation.state.mask.density,
            delivered_bytes=self._intake.delivered_bytes,
            status=status,
            reason=reason,
        )
