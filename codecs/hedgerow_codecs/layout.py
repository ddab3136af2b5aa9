"""Order, shapes and kinds of a model's tensors: what turns a parameter set into one flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate

import msgpack
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow_codecs.errors import LayoutError

KINDS = ("conv", "linear", "bias", "norm", "buffer", "embedding", "recurrent", "other")
MAX_PARAMETERS = 2**31
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8
MAX_NAME_BYTES = 255
DIGEST_BYTES = 16

_FORMAT = 1
_MAX_LAYOUT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, shape and role of one tensor.

    Parameters
    ----------
    name : str
        As in the model's state dict; printable, 1 to 255 UTF-8 bytes.
    shape : tuple[int, ...]
        At most 8 dimensions of at least 1; ``()`` is a scalar.
    kind : str
        One of `KINDS`. ``norm`` is the scale or shift of a normalisation, ``buffer`` its running statistics.
    prunable : bool
        Whether a mask may take entries of this tensor away.

    Raises
    ------
    LayoutError
        For a field out of these ranges.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    prunable: bool

    def __post_init__(self) -> None:
        # Lone surrogates, which have no UTF-8 form, are not printable either.
        if not isinstance(self.name, str) or not self.name.isprintable():
            raise LayoutError(f"tensor name must be printable, got {self.name!r:.80}")
        if not 1 <= len(self.name.encode()) <= MAX_NAME_BYTES:
            raise LayoutError(
                f"tensor name must have 1 to {MAX_NAME_BYTES} UTF-8 bytes, got {self.name!r:.80}"
            )
        if not isinstance(self.shape, tuple) or len(self.shape) > MAX_DIMENSIONS:
            raise LayoutError(
                f"tensor {self.name!r}: shape must be a tuple of at most {MAX_DIMENSIONS} dimensions",
                tensor=self.name,
            )
        if any(type(n) is not int or not 1 <= n <= MAX_PARAMETERS for n in self.shape):
            raise LayoutError(
                f"tensor {self.name!r}: dimensions must be integers from 1 to 2**31, got {self.shape}",
                tensor=self.name,
            )
        if self.kind not in KINDS:
            raise LayoutError(
                f"tensor {self.name!r}: kind must be one of {', '.join(KINDS)}, got {self.kind!r}",
                tensor=self.name,
            )
        if type(self.prunable) is not bool:
            raise LayoutError(f"tensor {self.name!r}: prunable must be true or false", tensor=self.name)

    @property
    def size(self) -> int:
        """Number of parameters in the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tensors of a model, in the order in which they make up the flat vector.

    Two layouts are equal when their tensors are. `offsets` has one entry more than there are tensors: tensor
    ``i`` is ``flat[offsets[i]:offsets[i + 1]]``, in C order. `digest` is the blake2b-128 of `to_bytes()`.

    Raises
    ------
    LayoutError
        Two tensors of one name, more than 10 000 tensors, or more than 2**31 parameters.

    Examples
    --------
    >>> layout = Layout(tensors=(TensorSpec(name="fc.weight", shape=(2, 3), kind="linear", prunable=True),
    ...                          TensorSpec(name="fc.bias", shape=(2,), kind="bias", prunable=False)))
    >>> layout.num_parameters, layout.offsets
    (8, (0, 6, 8))
    """

    tensors: tuple[TensorSpec, ...]
    num_parameters: int = field(init=False, compare=False)
    offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tensors, tuple) or len(self.tensors) > MAX_TENSORS:
            raise LayoutError(f"a layout is a tuple of at most {MAX_TENSORS} tensors")
        seen: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in seen:
                raise LayoutError(f"tensor {tensor.name!r} is in the layout twice", tensor=tensor.name)
            seen.add(tensor.name)
        offsets = (0, *accumulate(tensor.size for tensor in self.tensors))
        if offsets[-1] > MAX_PARAMETERS:
            raise LayoutError(f"a layout has at most 2**31 parameters, this one has {offsets[-1]}")
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "num_parameters", offsets[-1])
        object.__setattr__(self, "digest", blake2b(self.to_bytes(), digest_size=DIGEST_BYTES).digest())

    def to_bytes(self) -> bytes:
        """Return the canonical msgpack form: the same layout gives the same bytes everywhere."""
        rows = [[t.name, list(t.shape), KINDS.index(t.kind), t.prunable] for t in self.tensors]
        return bytes(msgpack.packb([_FORMAT, rows], use_bin_type=True) or b"")

    @staticmethod
    def from_bytes(data: bytes) -> Layout:
        """Read the canonical form and check all of it.

        Raises
        ------
        LayoutError
            For anything that `to_bytes` of a valid layout would not have written, to the byte.
        """
        if len(data) > _MAX_LAYOUT_BYTES:
            raise LayoutError(f"layout has {len(data)} bytes, at most {_MAX_LAYOUT_BYTES} are read")
        try:
            content = msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=True,
                max_str_len=MAX_NAME_BYTES,
                max_bin_len=0,
                max_array_len=MAX_TENSORS,
                max_map_len=0,
                max_ext_len=0,
            )
        except (ValueError, msgpack.UnpackException) as error:  # UnicodeDecodeError is a ValueError
            raise LayoutError(f"layout is not msgpack: {error}") from error
        layout = Layout(tensors=tuple(_tensor(row) for row in _rows(content)))
        # A second spelling of one layout would be a second digest of it.
        if layout.to_bytes() != bytes(data):
            raise LayoutError("layout is not in its canonical form")
        return layout

    def split(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Cut the flat vector into its tensors.

        Parameters
        ----------
        flat : ndarray, shape (num_parameters,)

        Returns
        -------
        dict[str, ndarray]
            Views into `flat`, in layout order, each in its tensor's shape.

        Raises
        ------
        LayoutError
            `flat` has another shape.
        """
        self.check_flat(flat)
        return {
            tensor.name: flat[start : start + tensor.size].reshape(tensor.shape)
            for tensor, start in zip(self.tensors, self.offsets, strict=False)
        }

    def join(self, tensors: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
        """Lay tensors out as one float32 vector.

        Parameters
        ----------
        tensors : Mapping[str, array_like]
            One array of the right shape for every name of the layout.

        Returns
        -------
        ndarray, float32, shape (num_parameters,)

        Raises
        ------
        LayoutError
            A name is missing or not in the layout, or an array has another shape.
        """
        known = {tensor.name for tensor in self.tensors}
        for name in tensors:
            if name not in known:
                raise LayoutError(f"tensor {name!r} is not in the layout", tensor=name)
        flat = np.empty(self.num_parameters, np.float32)
        for tensor, start in zip(self.tensors, self.offsets, strict=False):
            if tensor.name not in tensors:
                raise LayoutError(f"tensor {tensor.name!r} is missing", tensor=tensor.name)
            array = np.asarray(tensors[tensor.name], np.float32)
            if array.shape != tensor.shape:
                raise LayoutError(
                    f"tensor {tensor.name!r} must have shape {tensor.shape}, got {array.shape}",
                    tensor=tensor.name,
                )
            flat[start : start + tensor.size] = array.reshape(-1)
        return flat

    def check_flat(self, flat: NDArray[np.generic]) -> None:
        """Raise `LayoutError` unless `flat` has shape ``(num_parameters,)``."""
        if flat.shape != (self.num_parameters,):
            raise LayoutError(f"flat vector must have shape ({self.num_parameters},), got {flat.shape}")

    def prunable(self) -> NDArray[np.bool_]:
        """Return which parameters a mask may take away, shape ``(num_parameters,)``."""
        sizes = [tensor.size for tensor in self.tensors]
        return np.repeat(np.array([tensor.prunable for tensor in self.tensors], np.bool_), sizes)


def _rows(content: object) -> list[object]:
    if not isinstance(content, list) or len(content) != 2 or content[0] != _FORMAT:
        raise LayoutError(f"layout must be a list of format {_FORMAT} and tensors")
    if not isinstance(content[1], list):
        raise LayoutError("layout's tensors must be a list")
    return content[1]


def _tensor(row: object) -> TensorSpec:
    match row:
        case [str() as name, list() as shape, int() as kind, bool() as prunable] if 0 <= kind < len(KINDS):
            return TensorSpec(name=name, shape=tuple(shape), kind=KINDS[kind], prunable=prunable)
        case _:
            raise LayoutError(f"layout has a malformed tensor: {row!r:.80}")
