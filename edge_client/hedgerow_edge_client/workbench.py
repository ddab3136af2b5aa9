"""What the trainer's process holds: the task, its model and its data, each loaded when first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hedgerow_codecs import Frozen, Layout, LayoutError
from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.held_out import parted
from hedgerow_edge_client.parameters import module_layout, write_parameters
from hedgerow_edge_client.requests import Progress, TrainRequest
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task, load_task
from hedgerow_edge_client.trainer_frames import pack_array, unpack_array
from hedgerow_edge_client.training import train

_PREDICT_ROWS = 256
_EXAMPLE_ROWS = 5


class Workbench:
    """Do what the client asks for; every method returns a map for the pipe."""

    def __init__(self, path: Path, *, data: Path | None, client: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._path = path
        self._data = data
        self._client = client

    @cached_property
    def _task(self) -> Task:
        return load_task(self._path)

    @cached_property
    def _module(self) -> torch.nn.Module:
        return self._task.model()

    @cached_property
    def _layout(self) -> Layout:
        with self._task.blame("the model"):
            return module_layout(self._module, protect=self._task.protect)

    @cached_property
    def _counters(self) -> dict[str, torch.Tensor]:
        """What the state dict holds beside the layout, as it was at first: each training begins with it."""
        names = {spec.name for spec in self._layout.tensors}
        state = self._module.state_dict()
        return {
            name: value.clone()
            for name, value in state.items()
            if name not in names and not value.is_floating_point()
        }

    @cached_property
    def _samples(self) -> Samples:
        return self._task.samples(self._data, client=self._client)

    @cached_property
    def _test_samples(self) -> Samples | None:
        return self._task.test_samples(self._data)

    @cached_property
    def _held_out(self) -> Samples | None:
        return self._task.held_out(self._data, client=self._client)

    def describe(self) -> dict[str, Any]:
        """Return what the client must know of the task."""
        return {
            "layout": self._layout.to_bytes(),
            "num_samples": len(self._samples),
            "torch_version": str(torch.__version__),
            "metric": self._task.metric,
            "has_test_data": self._task.load_test_data is not None,
            "freeze": [*self._task.freeze, *self._without_gradient()],
        }

    def _without_gradient(self) -> list[str]:
        """Return the parameters that `build_model` has frozen, and that no pattern of the task means."""
        known = {spec.name for spec in self._layout.tensors}
        found = [n for n, p in self._module.named_parameters() if n in known and not p.requires_grad]
        if not found or not self._task.freeze:
            return found
        try:
            meant = Frozen.matching(self._layout, self._task.freeze).names
        except LayoutError as error:
            raise TaskError(f"'freeze': {error}", path=self._task.path) from error
        return [name for name in found if name not in meant]

    def train(
        self,
        layout: bytes | None,
        request: TrainRequest,
        *,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> dict[str, Any]:
        """Train and return the result, if the model is still the one of this layout digest."""
        if layout is not None and layout != self._layout.digest:
            raise TaskError(
                "the model has changed since the client was started: start it again", path=self._path
            )
        state = self._module.state_dict()
        with torch.no_grad():
            for name, value in self._counters.items():
                state[name].copy_(value)
        result = train(
            self._module,
            self._samples,
            request,
            task=self._task,
            on_progress=on_progress,
            should_stop=should_stop,
            held_out=None if request.personal is None else self._held_out,
        )
        return result.to_wire()

    def predict(self, weights: bytes, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the model's outputs for inputs, in evaluation mode."""
        rows = torch.from_numpy(unpack_array(inputs).copy())
        if rows.dtype == torch.float64:
            rows = rows.float()
        write_parameters(self._module, self._layout, np.frombuffer(weights, "<f4").astype(np.float32))
        self._module.eval()
        outputs = []
        with torch.no_grad(), self._task.blame("the model"):
            for batch in torch.split(rows, _PREDICT_ROWS):
                output = self._module(batch)
                outputs.append((output[0] if isinstance(output, (tuple, list)) else output).numpy())
        return {"outputs": pack_array(np.concatenate(outputs))}

    def template(self, seed: int) -> dict[str, Any]:
        """Return the ONNX template of a model that is built anew from `seed`, and its layout."""
        from hedgerow_export import make_template

        torch.manual_seed(seed)
        module = self._task.model()
        with self._task.blame("the model"):
            layout = module_layout(module, protect=self._task.protect)
        inputs, _ = self._example()
        return {"template": make_template(module, inputs, layout=layout)}

    def test_data(self) -> dict[str, Any]:
        """Return all the test data, or nothing where the task has none."""
        samples = self._test_samples
        if samples is None:
            return {"inputs": None, "targets": None}
        with self._task.blame("reading the test data"):
            inputs, targets = samples.batch(range(len(samples)))
        return {"inputs": pack_array(inputs.numpy()), "targets": pack_array(targets.numpy())}

    def rows(self, most: int, most_bytes: int) -> dict[str, Any]:
        """Return some of this client's samples, evenly spread, to try a model on."""
        samples = self._samples
        with self._task.blame("reading a batch of the data"):
            inputs, targets = samples.batch([0])
            size = inputs.nbytes + targets.nbytes
            count = max(1, min(len(samples), most, most_bytes // max(1, size)))
            inputs, targets = samples.batch([i * len(samples) // count for i in range(count)])
        return {
            "inputs": pack_array(inputs.numpy()),
            "targets": pack_array(targets.numpy()),
            "metric": self._task.metric,
        }

    def held_out(self, share: float) -> dict[str, Any]:
        """Return what is not trained on: the task's own, or a share of the data; or nothing."""
        samples = self._held_out or parted(self._samples, share)[1]
        if samples is None:
            return {"inputs": None}
        with self._task.blame("reading the data"):
            inputs, targets = samples.batch(range(len(samples)))
        arrays = {"inputs": pack_array(inputs.numpy()), "targets": pack_array(targets.numpy())}
        return arrays | {"by_task": self._held_out is not None}

    def _example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a few rows of the data; whoever makes the template may have the test data alone."""
        samples: Samples | None
        try:
            samples = self._samples
        except TaskError:
            samples = self._test_samples
            if samples is None:
                raise
        rows = range(min(len(samples), _EXAMPLE_ROWS))
        with self._task.blame("reading a batch of the data"):
            return samples.batch(rows)
