"""Devices of three strengths train one model on the packaged digits, beside six of full strength.

docs/personal.md has what it prints.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.toolkit.digits_farm import CLIENTS, FULL, Trainers, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("alone")]

SEEDS = (7, 13, 21)
SHARES = '[pruning.tiers]\n"half-*" = 0.5\n"quarter-*" = 0.25\n'
BY_MAGNITUDE = f'policy = "tiered"\ndensity = 1.0\n{SHARES}'
BY_DISTANCE = f'policy = "tiered"\ntier_by = "distance"\ndensity = 1.0\n{SHARES}'
BY_WIDTH = f'policy = "tiered"\ntier_by = "width"\ndensity = 1.0\n{SHARES}'


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Trainers:
    return Trainers(tmp_path_factory.mktemp("tiers"))


@pytest.fixture(scope="module")
def full(trainers: Trainers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    means = {}
    for labels in ("equal", "mixed"):
        folder = tmp_path_factory.mktemp(labels)
        found = [run(trainers, folder / f"{s}", pruning=FULL, labels=labels, seed=s).accuracy for s in SEEDS]
        means[labels] = float(np.mean(found))
        print("all full", labels, found, means[labels])
    return means


HALVES = {"half": (0.5, 0.53), "quarter": (0.25, 0.29)}
NARROW = {"half": (0.3, 0.36), "quarter": (0.1, 0.15)}


def with_keys(pruning: str, keys: str) -> str:
    return pruning.replace("density = 1.0\n", f"density = 1.0\n{keys}\n")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("pruning", "labels", "ratios", "loss"),
    [
        pytest.param(BY_MAGNITUDE, "equal", HALVES, 0.015, id="magnitude-equal"),
        pytest.param(BY_MAGNITUDE, "mixed", HALVES, 0.015, id="magnitude-mixed"),
        pytest.param(BY_DISTANCE, "equal", HALVES, 0.015, id="distance-equal"),
        pytest.param(BY_DISTANCE, "mixed", HALVES, 0.015, id="distance-mixed"),
        pytest.param(BY_WIDTH, "equal", NARROW, 0.015, id="width-equal"),
        # Parts that stand alone do not know what only others have.
        pytest.param(BY_WIDTH, "mixed", NARROW, 0.16, id="width-mixed"),
        pytest.param(with_keys(BY_WIDTH, "mask_labels = true"), "mixed", NARROW, 0.15, id="width-masked"),
        pytest.param(with_keys(BY_MAGNITUDE, "biased = true"), "mixed", HALVES, 0.08, id="biased"),
        pytest.param(
            with_keys(BY_MAGNITUDE, "biased = true\nmask_labels = true"),
            "mixed",
            HALVES,
            0.065,
            id="biased-masked",
        ),
    ],
)
def test_tiers_lose_little_and_send_less(
    trainers: Trainers,
    full: Mapping[str, float],
    tmp_path: Path,
    pruning: str,
    labels: str,
    ratios: Mapping[str, tuple[float, float]],
    loss: float,
) -> None:
    found = [run(trainers, tmp_path / f"{s}", pruning=pruning, labels=labels, seed=s) for s in SEEDS]
    accuracy = float(np.mean([outcome.accuracy for outcome in found]))
    sizes = found[0].bytes_by_client
    print("tiers", labels, [outcome.accuracy for outcome in found], accuracy, sizes)
    assert all(set(outcome.rounds_by_client.values()) == {40} for outcome in found)
    for tier, (least, most) in ratios.items():
        for name in CLIENTS:
            if name.startswith(tier):
                assert least <= sizes[name] / sizes["full-0"] <= most, name
    assert accuracy >= full[labels] - loss
