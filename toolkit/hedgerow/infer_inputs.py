"""Inputs for a model out of a file: .npz, .npy or .csv."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow_coordinator import read_arrays
from hedgerow_export import InputSpec

MAX_FILE_BYTES = 2**31
_STDIN = "-"


def read_rows(path: Path, spec: InputSpec) -> NDArray[np.generic]:
    """Return the inputs in a file, in the shape that the model takes.

    An .npz file holds `inputs`, an .npy file one array, a .csv file one input in each line: as many numbers
    as the model takes, in C order.

    Raises
    ------
    hedgerow.errors.UsageError
        The file is missing, damaged, too large, or its numbers do not fit.
    """
    if path.suffix == ".csv":
        return np.stack(list(csv_rows(path, spec)))
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UsageError(f"--input {path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
        if path.suffix == ".npz":
            return read_arrays(path, "inputs")[0]
        if path.suffix == ".npy":
            array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
    except OSError as error:
        raise UsageError(f"--input {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise UsageError(
            f"--input {path} cannot be read: {error or 'it claims to be larger than it is'}"
        ) from error
    raise UsageError(f"--input {path} is no .npz, .npy or .csv file")


def csv_rows(path: Path, spec: InputSpec) -> Iterator[NDArray[np.generic]]:
    """Yield one input for each line of a .csv file, or of standard input for ``-``; a header is left out.

    Raises
    ------
    hedgerow.errors.UsageError
        Names the line that does not fit, or the file that has none.
    """
    shape = tuple(size for size in spec.shape[1:] if size is not None)
    if len(shape) != len(spec.shape) - 1:
        raise UsageError(f"a line of numbers cannot give inputs of shape {spec.describe()}")
    count = 0
    try:
        with path.open(newline="", encoding="utf-8") if str(path) != _STDIN else sys.stdin as file:
            for number, fields in enumerate(csv.reader(file), start=1):
                values = _numbers(fields, first=number == 1, where=f"{path}, line {number}")
                if values is None:
                    continue
                wanted = math.prod(shape)
                if len(values) != wanted:
                    raise UsageError(
                        f"{path}, line {number}: {len(values)} numbers, but the model takes {wanted} "
                        f"for each input {spec.describe()}"
                    )
                count += 1
                yield np.array(values, np.float64).reshape(shape).astype(spec.dtype)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text of comma-separated numbers"
        raise UsageError(f"--input {path} cannot be read: {reason}") from error
    if not count:
        raise UsageError(f"--input {path} holds no line of numbers")


def _numbers(fields: list[str], *, first: bool, where: str) -> list[float] | None:
    """Return a line's numbers; None for an empty line or a header."""
    if not any(field.strip() for field in fields):
        return None
    try:
        return [float(field) for field in fields]
    except ValueError as error:
        if first:
            return None
        raise UsageError(f"{where}: {error}") from error
