from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hedgerow_codecs import (
    FEEDBACKS,
    Ef21Feedback,
    ErrorFeedback,
    Layout,
    LayoutError,
    Mask,
    codec_from_config,
)


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


def test_a_debt_that_decays_stays_bounded(layout: Layout) -> None:
    delta, nothing = np.ones(107, np.float32), np.zeros(107, np.float32)
    feedback = ErrorFeedback.zero(layout)
    for _ in range(30):
        feedback = feedback.decayed(0.5).after(feedback.decayed(0.5).compensate(delta), nothing)
    assert feedback.residual == pytest.approx(np.full(107, 2.0))
    assert feedback.decayed(1.0).residual.tobytes() == feedback.residual.tobytes()


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


def test_an_estimate_has_one_form_in_bytes(layout: Layout) -> None:
    zero = Ef21Feedback.zero(layout)
    assert zero.to_bytes() == bytes(14)
    estimate = np.zeros(107, np.float32)
    # A zero with a sign is a zero.
    estimate[[0, 9, 106]], estimate[5] = (1.0, -2.0, 0.5), -0.0
    feedback = Ef21Feedback(estimate=estimate)
    data = feedback.to_bytes()
    assert data.hex() == "0102" + "00" * 11 + "04" + "0000803f" + "000000c0" + "0000003f"
    assert feedback.digest == hashlib.blake2b(data, digest_size=16).digest() != zero.digest
    again = Ef21Feedback.from_bytes(data, layout=layout)
    assert np.array_equal(again.estimate, estimate)
    assert again.digest == feedback.digest
    assert np.array_equal(Ef21Feedback.from_bytes(bytes(14), layout=layout).estimate, zero.estimate)


def test_an_estimate_that_is_none_is_refused(layout: Layout) -> None:
    data = Ef21Feedback(estimate=np.linspace(1, 2, 107, dtype=np.float32)).to_bytes()
    damaged = [data[:length] for length in range(len(data))]
    damaged += [data + b"\x00", b"\x08" + bytes(13), bytes(13) + b"\x08" + bytes(4), b"\x01" + bytes(17)]
    damaged += [b"\x01" + bytes(13) + np.float32(np.nan).tobytes()]
    for wrong in damaged:
        with pytest.raises(LayoutError):
            Ef21Feedback.from_bytes(wrong, layout=layout)


@pytest.mark.parametrize(("kind", "left"), [("residual", 0.25), ("ef21", 1.0), ("none", 0.0)])
def test_every_kind_is_made_from_what_it_keeps(layout: Layout, kind: str, left: float) -> None:
    feedback = FEEDBACKS[kind](np.zeros(107, np.float32))
    delta = np.full(107, 1.25, np.float32)
    wanted = feedback.compensate(delta)
    assert np.array_equal(wanted, delta)
    after = feedback.after(wanted, np.ones(107, np.float32))
    assert after.vector.tolist() == [left] * 107
    kept = FEEDBACKS[kind](after.vector)
    assert np.array_equal(kept.compensate(delta), after.compensate(delta))
    assert np.array_equal(kept.remask(Mask.dense(layout)).vector, after.vector)
