"""How a client's error feedback goes on: with the masks, and with what becomes of its updates."""

from __future__ import annotations

import numpy as np

from hedgerow_codecs import FEEDBACKS, Ef21Feedback, Feedback, Layout, Mask
from hedgerow_edge_client.state import Pending


def fresh_feedback(kind: str, *, layout: Layout) -> Feedback:
    """Return the feedback of a client that has sent nothing; `kind` is one of `FEEDBACKS`."""
    return FEEDBACKS[kind](np.zeros(layout.num_parameters, np.float32))


def under_mask(feedback: Feedback, mask: Mask) -> Feedback:
    """Return the feedback once the model has a new mask.

    An EF21 estimate stays as it is: both ends mask it when they use it, so that it is the same at both
    whatever masks this client has missed.
    """
    return feedback if isinstance(feedback, Ef21Feedback) else feedback.remask(mask)


def feedback_after(status: str, *, pending: Pending, feedback: Feedback, mask: Mask) -> Feedback:
    """Return the feedback once the coordinator has said what became of an update.

    Parameters
    ----------
    status
        Of its `Ack`.
    pending
        The update.
    feedback
        From which the update was made.
    mask
        Of the model now; it may have gone on since.

    Returns
    -------
    Feedback
        The same object when the answer changes nothing.
    """
    if status in ("accepted", "duplicate"):
        return under_mask(FEEDBACKS[feedback.kind](pending.residual), mask)
    if status == "anew" and isinstance(feedback, Ef21Feedback) and feedback.estimate.any():
        return fresh_feedback(feedback.kind, layout=mask.layout)
    # Nothing of the update was counted.
    return feedback


def estimate_digest(feedback: Feedback) -> bytes:
    """Return what an offer says of the estimate that its update is relative to; empty without EF21."""
    return feedback.digest if isinstance(feedback, Ef21Feedback) else b""
