"""Clients that train in this process, one after the other, for simulations of small networks.

That is sooner than to start processes for them. One module serves all; each client has its own data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hedgerow_edge_client import TrainRequest, TrainResult
from hedgerow_edge_client.parameters import module_layout, write_parameters
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import load_task
from hedgerow_edge_client.training import train


class LocalTrainers:
    """Train and evaluate for a `hedgerow.simulation.Simulation`.

    Parameters
    ----------
    path
        The task file.
    folders
        Data folders by client; those that are not named have none.
    test
        Inputs and targets to evaluate on; None where `evaluate` is not called.
    seed
        Of the module's own first weights.

    Attributes
    ----------
    asked
        By round, what kind of question it asked.
    """

    def __init__(
        self,
        path: Path,
        *,
        folders: Mapping[str, Path] | None = None,
        test: tuple[NDArray[np.generic], NDArray[np.generic]] | None = None,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.task = load_task(path)
        self.module = self.task.model()
        self.layout = module_layout(self.module, protect=self.task.protect)
        self.asked: dict[int, str] = {}
        self._folders = folders or {}
        self._samples: dict[str, Samples] = {}
        self._test = None if test is None else tuple(torch.from_numpy(part) for part in test)

    def train(self, requests: Sequence[tuple[str, TrainRequest]]) -> list[TrainResult | str]:
        """Train for each client in turn."""
        return [self._train(name, request) for name, request in requests]

    def evaluate(self, weights: NDArray[np.float32]) -> tuple[float, float]:
        """Return the share of right answers and the loss on the test data."""
        if self._test is None:
            raise ValueError("there is no test data to evaluate on")
        inputs, targets = self._test
        write_parameters(self.module, self.layout, weights)
        self.module.eval()
        with torch.no_grad():
            outputs = self.module(inputs)
            return float((outputs.argmax(1) == targets).float().mean()), float(
                self.task.loss(outputs, targets)
            )

    def _train(self, name: str, request: TrainRequest) -> TrainResult:
        if request.question is not None:
            self.asked[request.round] = request.question.kind
        if name not in self._samples:
            self._samples[name] = self.task.samples(self._folders.get(name), client=name)
        return train(self.module, self._samples[name], request, task=self.task)
