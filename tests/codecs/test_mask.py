from __future__ import annotations

import numpy as np
import pytest

from hedgerow_codecs import Layout, LayoutError, Mask, MaskError


def test_counts_and_positions(layout: Layout, mask: Mask) -> None:
    assert mask.lengths == (24, 4, 4, 4, 4, 33, 5)
    assert mask.num_live == 78
    assert mask.density == 78 / 107
    assert mask.positions.dtype == np.int64
    assert mask.positions[:4].tolist() == [1, 2, 4, 5]
    assert Mask.dense(layout).num_live == 107


def test_gather_and_scatter(mask: Mask) -> None:
    flat = np.arange(107, dtype=np.float32)
    live = mask.gather(flat)
    assert live.tolist() == mask.positions.tolist()
    back = mask.scatter(live)
    assert back[0] == 0
    assert back[1] == 1
    assert np.array_equal(back, np.where(mask.live, flat, 0))
    with pytest.raises(LayoutError):
        mask.gather(flat[1:])
    with pytest.raises(MaskError, match=r"\(78,\), got \(77,\)"):
        mask.scatter(live[1:])


def test_digest_is_of_the_prunable_bits(layout: Layout, mask: Mask) -> None:
    assert Mask(layout=layout, live=mask.live) == mask
    assert hash(Mask(layout=layout, live=mask.live)) == hash(mask)
    other = mask.live.copy()
    other[0] = True
    assert Mask(layout=layout, live=other) != mask
    assert Mask(layout=layout, live=other).digest != mask.digest
    # A changed digest makes every frame in the world one for another mask.
    assert mask.digest.hex() == "1664cb3cc872374f7b5209a66639f592"
    assert Mask.dense(Layout(tensors=())).digest != mask.digest


def test_the_mask_keeps_its_own_bits(layout: Layout) -> None:
    live = np.ones(107, np.bool_)
    mask = Mask(layout=layout, live=live)
    live[0] = False
    assert mask.live[0]
    with pytest.raises(ValueError, match="read-only"):
        mask.live[0] = False


def test_a_mask_that_breaks_its_layout_is_refused(layout: Layout) -> None:
    with pytest.raises(MaskError, match=r"shape \(107,\)"):
        Mask(layout=layout, live=np.ones(106, np.bool_))
    with pytest.raises(MaskError, match="bool"):
        Mask(layout=layout, live=np.ones(107, np.uint8))  # type: ignore[arg-type]
    live = np.ones(107, np.bool_)
    live[41] = False
    with pytest.raises(MaskError, match=r"'norm\.weight' is not prunable") as caught:
        Mask(layout=layout, live=live)
    assert caught.value.tensor == "norm.weight"
