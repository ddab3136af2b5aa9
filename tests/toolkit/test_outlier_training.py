"""One of six devices sends updates that are no good; docs/decisions/0023-outliers.md has what it prints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.toolkit.digits_farm import CLIENTS, FULL, Trainers, run

from hedgerow_edge_client import TrainRequest, TrainResult
from hedgerow_edge_client.errors import TrainingDiverged

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("alone")]

SEEDS = (7, 13, 21)
ILL = CLIENTS[-1]
AWAY, SCALE, TURN = "does not train", "does not scale its pixels", "sends -1000 times its update"


class WithOneIll(Trainers):
    """Six devices, one of them ill."""

    illness = AWAY
    farthest = 0.0
    """Largest update of a device that is well, in norms of the model."""

    def part(self, labels: str, *, seed: int) -> None:
        super().part(labels, seed=seed)
        if self.illness == SCALE:
            held = self._samples[ILL]
            inputs, targets = held.batch(range(len(held)))
            self._samples[ILL] = type(held)(inputs * 16, targets, source="load_data")

    def train(self, requests: Sequence[tuple[str, TrainRequest]]) -> list[TrainResult | str]:
        return [self._train(name, request) for name, request in requests]

    def _train(self, name: str, request: TrainRequest) -> TrainResult | str:
        if (name, self.illness) == (ILL, AWAY):
            return "it is away"
        try:
            (result,) = super().train([(name, request)])
        except TrainingDiverged as error:
            return str(error)
        if (name, self.illness) == (ILL, TURN):
            return replace(result, weights=request.weights - 1000 * (result.weights - request.weights))
        if name != ILL:
            update = np.linalg.norm(result.weights - request.weights)
            self.farthest = max(self.farthest, float(update / np.linalg.norm(request.weights)))
        return result


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> WithOneIll:
    return WithOneIll(tmp_path_factory.mktemp("ill"))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("labels", ["equal", "mixed"])
def test_the_others_learn_as_if_it_were_away(trainers: WithOneIll, tmp_path: Path, labels: str) -> None:
    found: dict[tuple[str, bool], list[float | str]] = {}
    for illness in (AWAY, SCALE, TURN):
        for is_compared in (True, False):
            keys = "" if is_compared else "\n[aggregation]\noutlier_ratio = 0"
            trainers.illness, trainers.farthest = illness, 0.0
            for seed in SEEDS:
                folder = tmp_path / f"{seed}-{len(found)}"
                try:
                    outcome = run(trainers, folder, pruning=FULL + keys, labels=labels, seed=seed)
                    result: float | str = outcome.accuracy
                except AssertionError as error:
                    result = str(error).partition("\n")[0]
                found.setdefault((illness, is_compared), []).append(result)
            print(labels, illness, "compared" if is_compared else "taken", found[illness, is_compared])
            if is_compared:
                print("  largest update of the others, in norms of the model:", trainers.farthest)
                assert trainers.farthest < 0.5
    away = np.mean([float(value) for value in found[AWAY, True]])
    for illness in (SCALE, TURN):
        assert np.mean([float(value) for value in found[illness, True]]) >= away - 0.01
    assert all("failed in 3 attempts: " in str(value) for value in found[TURN, False])
