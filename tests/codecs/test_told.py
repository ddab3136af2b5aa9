"""Which entries are told, against the class of every entry."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_codecs.stages.energy import EVEN, Levels, geometry, live_classes
from hedgerow_codecs.stages.told import Told

SHAPES = st.lists(st.sampled_from([(), (7,), (1, 5), (5, 1), (4, 6), (3, 4, 3, 3)]), min_size=1, max_size=5)


@given(shapes=SHAPES, data=st.data())
def test_told_is_every_entry_with_a_class(shapes: list[tuple[int, ...]], data: st.DataObject) -> None:
    layout = Layout(
        tensors=tuple(
            TensorSpec(name=f"t{number}", shape=shape, kind="linear", prunable=True)
            for number, shape in enumerate(shapes)
        )
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    live = np.ones(layout.num_parameters, np.bool_)
    for start, tensor in zip(layout.offsets, layout.tensors, strict=False):
        kept = data.draw(st.sampled_from([1.0, 1.0, 0.5, 0.0]), label="density")
        live[start : start + tensor.size] = rng.random(tensor.size) < kept
    mask = Mask(layout=layout, live=live)

    def some(count: int, even: int) -> np.ndarray:
        if data.draw(st.booleans(), label="one for all"):
            return np.array([even], np.uint8)
        return np.where(rng.random(count) < 0.6, rng.integers(1, 16, count), 0).astype(np.uint8)

    levels = []
    for tensor in layout.tensors:
        rows, columns, _ = geometry(tensor)
        levels.append(Levels(rows=some(rows, int(rng.integers(0, 14))), columns=some(columns, EVEN)))

    told = Told.by(levels, mask=mask)

    classes = live_classes(levels, mask=mask)
    places = np.flatnonzero(classes > 0)
    np.testing.assert_array_equal(told.bases + 1, classes[places])
    chosen = np.flatnonzero(rng.random(places.size) < 0.5)
    np.testing.assert_array_equal(told.positions(chosen), places[chosen])
    back = list(told.indices(places[chosen]))
    np.testing.assert_array_equal(np.concatenate([chosen[:0], *(found for _, found in back)]), chosen)
    np.testing.assert_array_equal(np.concatenate([chosen[:0], *(chosen[part] for part, _ in back)]), chosen)
