from __future__ import annotations

import numpy as np
import pytest

from hedgerow_codecs import Ef21Feedback, ErrorFeedback, Layout, LayoutError, Mask, codec_from_config


def test_what_was_left_out_is_sent_later(layout: Layout) -> None:
    mask = Mask.dense(layout)
    codec = codec_from_config({"codec_id": "topk", "fraction": 0.1, "bits": 8})
    delta = np.linspace(0.1, 1.0, 107, dtype=np.float32)
    feedback, received = ErrorFeedback.zero(layout), np.zeros(107)
    for _ in range(60):
        compensated = feedback.compensate(delta)
        sent = codec.decode(codec.encode(compensated, mask=mask), mask=mask).values()
        feedback = feedback.after(compensated, sent)
        received += sent
    assert np.abs(received + feedback.residual - 60 * delta.astype(np.float64)).max() < 1e-3
    assert np.abs(received / 60 - delta).max() < 0.2


def test_ef21_reaches_a_delta_that_stays(layout: Layout) -> None:
    mask = Mask.dense(layout)
    codec = codec_from_config({"codec_id": "topk", "fraction": 0.1, "bits": 8})
    delta = np.linspace(0.1, 1.0, 107, dtype=np.float32)
    feedback, believed = Ef21Feedback.zero(layout), Ef21Feedback.zero(layout)
    for _ in range(40):
        wanted = feedback.compensate(delta)
        sent = codec.decode(codec.encode(wanted, mask=mask), mask=mask).values()
        feedback, believed = feedback.after(wanted, sent), believed.after(wanted, sent)
        assert np.array_equal(believed.estimate, feedback.estimate)
    assert np.abs(believed.estimate - delta).max() < 1e-4
    forgotten = feedback.remask(Mask(layout=layout, live=~layout.prunable()))
    assert np.array_equal(forgotten.estimate != 0, ~layout.prunable())
    with pytest.raises(LayoutError):
        feedback.compensate(np.zeros(3, np.float32))
    with pytest.raises(LayoutError):
        Ef21Feedback(estimate=np.zeros(3))  # type: ignore[arg-type]


def test_remask_forgets_what_is_pruned(layout: Layout, mask: Mask) -> None:
    feedback = ErrorFeedback(residual=np.ones(107, np.float32)).remask(mask)
    assert np.array_equal(feedback.residual != 0, mask.live)


def test_another_size_is_refused(layout: Layout) -> None:
    feedback = ErrorFeedback.zero(layout)
    for call in (
        lambda: feedback.compensate(np.zeros(3, np.float32)),
        lambda: feedback.after(np.zeros(107, np.float32), np.zeros(3, np.float32)),
        lambda: feedback.remask(Mask.dense(Layout(tensors=layout.tensors[:1]))),
        lambda: ErrorFeedback(residual=np.zeros(3)),  # type: ignore[arg-type]
    ):
        with pytest.raises(LayoutError):
            call()
