"""What a device proposes, by hand."""

import numpy as np

from hedgerow_codecs import Layout, TensorSpec
from hedgerow_edge_client.proposals import strongest

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a", shape=(2, 3), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(2,), kind="bias", prunable=False),
        TensorSpec(name="c", shape=(2, 2), kind="linear", prunable=True),
    )
)
WEIGHTS = np.array([5, -4, 3, 2, 1, 9, 0, 0, 0.1, -0.3, 0.2, 0.1], np.float32)


def kept(density: float, *, live: np.ndarray | None = None, protect: tuple[str, ...] = ()) -> list[int]:
    live = np.ones(12, np.bool_) if live is None else live
    found = strongest(WEIGHTS, live=live, layout=LAYOUT, density=density, protect=protect)
    return [int(place) for place in np.flatnonzero(found)]


def test_the_strongest_of_the_whole_model_stay() -> None:
    # Six of twelve: the two that are never pruned, the strongest of each tensor, and the next two of all.
    assert kept(0.5) == [0, 1, 5, 6, 7, 9]
    assert kept(1.0) == list(range(12))
    assert kept(0.01) == [5, 6, 7, 9]


def test_what_is_not_live_stays_pruned_and_protected_tensors_stay_whole() -> None:
    live = np.ones(12, np.bool_)
    live[[5, 9]] = False
    assert kept(0.5, live=live) == [0, 1, 2, 6, 7, 10]
    assert kept(0.6, protect=("c",)) == [5, 6, 7, 8, 9, 10, 11]


def test_where_less_is_live_than_asked_for_nothing_goes() -> None:
    live = np.zeros(12, np.bool_)
    live[[0, 3, 6, 7, 8]] = True
    assert kept(0.5, live=live) == [0, 3, 6, 7, 8]
