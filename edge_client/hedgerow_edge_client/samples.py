"""A task's data as one thing: how many samples there are, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from hedgerow_edge_client.errors import EmptyData, TaskError


class Samples(Protocol):
    """Samples that can be had in any order."""

    def __len__(self) -> int:
        """Return the number of samples, at least 1."""
        ...

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (inputs, targets) of these samples, each of shape ``(len(indices), ...)``."""
        ...


def make_samples(value: object, *, source: str) -> Samples:
    """Take what a task's `source` function returned.

    Parameters
    ----------
    value
        A map-style dataset of (input, target) pairs, or a tuple (inputs, targets) of arrays or tensors.
        float64 becomes float32, and whole-number targets become int64, batch by batch.
    source
        Name of the user's function, for messages.

    Raises
    ------
    EmptyData
        No samples.
    TaskError
        Anything else; the caller knows the file.
    """
    if isinstance(value, TensorDataset) and len(value.tensors) == 2:
        value = value.tensors
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_array(part) for part in value):
        return _ArraySamples(value[0], value[1], source=source)
    return _DatasetSamples(_check_dataset(value, source), source=source)


class _ArraySamples:
    """Two arrays or tensors; whatever lies on disk (numpy memory maps) stays there until a batch is made."""

    def __init__(self, inputs: Any, targets: Any, *, source: str) -> None:
        for name, array in (("inputs", inputs), ("targets", targets)):
            if isinstance(array, np.ndarray) and array.dtype.kind not in "biuf":
                raise TaskError(f"{source} returns {name} of type {array.dtype}: make them numbers")
            if array.ndim == 0:
                raise TaskError(f"{source} returns {name} without dimensions: the first one counts samples")
        if len(inputs) != len(targets):
            raise TaskError(
                f"{source} returns {len(inputs)} inputs but {len(targets)} targets: there must be one each"
            )
        if len(inputs) == 0:
            raise EmptyData(f"{source} returns no samples: check the folder that --data names")
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._inputs)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return _inputs(_rows(self._inputs, indices)), _targets(_rows(self._targets, indices))


class _DatasetSamples:
    """A map-style dataset."""

    def __init__(self, dataset: Any, *, source: str) -> None:
        self._dataset = dataset
        self._source = source
        if len(dataset) == 0:
            raise EmptyData(f"{source} returns a dataset without samples: check the folder that --data names")

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self._row(index) for index in indices]
        try:
            inputs, targets = default_collate(rows)
        except (TypeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise TaskError(
                f"the samples of {self._source} cannot be put into one batch: let each be a pair of tensors, "
                f"all of one size ({reason})"
            ) from error
        for name, part in (("input", inputs), ("target", targets)):
            if not isinstance(part, torch.Tensor):
                raise TaskError(f"the {name} of a sample of {self._source} must be one tensor or number")
        return _inputs(inputs), _targets(targets)

    def _row(self, index: int) -> tuple[Any, Any]:
        row = self._dataset[index]
        if not isinstance(row, (tuple, list)) or len(row) != 2:
            raise TaskError(
                f"sample {index} of {self._source} is a {type(row).__name__}, not a pair (input, target)"
            )
        return row[0], row[1]


def _check_dataset(value: object, source: str) -> Dataset[Any]:
    wanted = "return a dataset with __len__ and __getitem__, or a tuple (inputs, targets) of arrays"
    if isinstance(value, DataLoader):
        raise TaskError(f"{source} returns a DataLoader: return its dataset, the plan sets the batches")
    if isinstance(value, IterableDataset):
        raise TaskError(f"{source} returns an iterable dataset, whose samples cannot be shuffled: {wanted}")
    if value is None:
        raise TaskError(f"{source} returns nothing: {wanted}")
    mapping = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    if not mapping or _is_array(value) or isinstance(value, (tuple, dict, str, bytes)):
        kind = type(value).__name__
        if isinstance(value, tuple):
            kind = f"tuple of {', '.join(type(part).__name__ for part in value[:4]) or 'nothing'}"
        raise TaskError(f"{source} returns a {kind}: {wanted}")
    return value  # type: ignore[return-value]  # any object with these two methods is a dataset


def _is_array(value: object) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor))


def _rows(array: NDArray[Any] | torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array[torch.as_tensor(indices, dtype=torch.int64)]
    rows = np.ascontiguousarray(array[np.asarray(indices, np.int64)])
    # Torch knows the machine's byte order alone, and few unsigned types.
    if rows.dtype.kind == "u" and rows.dtype.itemsize > 1:
        rows = rows.astype(np.int64)
    return torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))


def _inputs(batch: torch.Tensor) -> torch.Tensor:
    batch = batch.detach()
    return batch.float() if batch.dtype == torch.float64 else batch


def _targets(batch: torch.Tensor) -> torch.Tensor:
    batch = batch.detach()
    if batch.dtype == torch.float64:
        return batch.float()
    if batch.is_floating_point() or batch.dtype == torch.bool:
        return batch
    return batch.long()
