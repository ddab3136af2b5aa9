"""What a client holds of a run: the model, what it owes, and the update whose fate is open; kept on disk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import FEEDBACKS, Feedback, Layout, Mask
from hedgerow_edge_client.feedback import fresh_feedback
from hedgerow_edge_client.memory import Memory
from hedgerow_edge_client.replica import Replica
from hedgerow_edge_client.state import Pending, Snapshot


class Holding:
    """Hold one client's part of a run; `save` after a change that a restart must find.

    Parameters
    ----------
    memory
        Loads and saves the snapshot; one of another model is not used.
    layout
        Of the task's model.

    Attributes
    ----------
    run : str
        Name of the run; empty before the first one.
    replica : Replica
    feedback : Feedback
    pending : Pending or None
        The update that is not acknowledged.
    personal : ndarray, bool, or None
        The mask of this device's own model, where the run has personal ones.
    sampled : int or None
        Seed of the weights whose probabilities the model holds, where it does.
    done_round : int
        The last round that has this client's answer.
    """

    def __init__(self, memory: Memory, *, layout: Layout) -> None:
        self._memory, self._layout = memory, layout
        self._begin("")
        snapshot = memory.load()
        if snapshot is not None and snapshot.layout == layout.digest:
            self._restore(snapshot)

    def enter(self, run: str) -> None:
        """Forget all that belongs to another run, also on disk."""
        self._begin(run)
        self.save()

    def save(self) -> None:
        """Write all of it."""
        self._memory.save(
            Snapshot(
                run=self.run,
                layout=self._layout.digest,
                version=self.replica.version,
                weights=self.replica.weights,
                live=self.replica.mask.live,
                residual=self.feedback.vector,
                feedback=self.feedback.kind,
                done_round=self.done_round,
                pending=self.pending,
                personal=self.personal,
                sampled=self.sampled,
            )
        )

    def _begin(self, run: str) -> None:
        self.run = run
        self.replica = Replica.empty(self._layout)
        self.feedback: Feedback = fresh_feedback("residual", layout=self._layout)
        self.pending: Pending | None = None
        self.personal: NDArray[np.bool_] | None = None
        self.sampled: int | None = None
        self.done_round = 0

    def _restore(self, snapshot: Snapshot) -> None:
        self.run = snapshot.run
        self.replica = Replica(
            version=snapshot.version,
            mask=Mask(layout=self._layout, live=snapshot.live),
            weights=snapshot.weights,
        )
        self.feedback = FEEDBACKS[snapshot.feedback](snapshot.residual)
        self.pending = snapshot.pending
        self.personal, self.sampled = snapshot.personal, snapshot.sampled
        self.done_round = snapshot.done_round
