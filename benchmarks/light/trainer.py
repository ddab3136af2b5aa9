"""What stands in for the trainer's process: no torch, no child, and changes that the request decides."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow_codecs import Layout, TensorSpec
from hedgerow_edge_client import TrainRequest, TrainResult
from hedgerow_edge_client.trainer_life import Trained
from hedgerow_edge_client.trainer_process import Description

# Steps of 1/1024 are exact in float32, so that a sum of them is the same in any order.
GRID = 1024
COLUMNS = 64


def light_layout(num_parameters: int) -> Layout:
    """Return a layout of one tensor with about as many parameters."""
    rows = max(1, num_parameters // COLUMNS)
    return Layout(tensors=(TensorSpec(name="w", shape=(rows, COLUMNS), kind="linear", prunable=True),))


class LightTrainer:
    """Move each live weight by a few steps that the request's seed decides, after a while.

    It has the methods of `hedgerow_edge_client.TrainerProcess` that a client's agent calls.

    Parameters
    ----------
    layout : Layout
    train_s : float
        How long a training takes.

    Attributes
    ----------
    last : TrainResult or None
        What the last training came to.
    """

    def __init__(self, layout: Layout, *, train_s: float = 0.0) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self._layout = layout
        self._train_s = train_s
        self._timer: threading.Timer | None = None
        self.last: TrainResult | None = None

    def describe(self, *, timeout_s: float = 0.0) -> Description:  # noqa: ARG002 -- the agent gives it
        """Say what the task is."""
        return Description(
            layout=self._layout, num_samples=10, torch_version="none", metric="accuracy", has_test_data=False
        )

    def start_train(self, request: TrainRequest) -> None:
        """Begin to train."""
        self.cancel()
        if self._train_s:
            self._timer = threading.Timer(self._train_s, self._finish, [request])
            self._timer.daemon = True
            self._timer.start()
        else:
            self._finish(request)

    def cancel(self) -> None:
        """Stop the training that is under way."""
        if self._timer is not None:
            self._timer.cancel()
        while not self.events.empty():
            self.events.get_nowait()

    def stop(self) -> None:
        """Have nothing to give back."""

    def close(self) -> None:
        """End."""
        self.cancel()

    def _finish(self, request: TrainRequest) -> None:
        steps = np.random.default_rng(request.seed).integers(-8, 9, request.weights.size, dtype=np.int8)
        moved = request.weights + np.where(request.live, steps / np.float32(GRID), np.float32(0))
        self.last = TrainResult(
            weights=moved.astype(np.float32),
            num_samples=10,
            loss=1.0,
            accuracy=0.5,
            steps=1,
            seconds=self._train_s,
        )
        self.events.put(Trained(round=request.round, result=self.last))


def state_of(folder: Path, name: str) -> Path:
    """Return where a client of a light federation keeps its state."""
    return folder / f"state-{name}"
