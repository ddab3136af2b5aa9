"""Which parameters of a model are alive: the public bit vector that both ends of a link hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import MaskError
from hedgerow_codecs.layout import DIGEST_BYTES, Layout

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """One bit per parameter of a layout: live, or pruned.

    Equal when layout and bits are equal (compared by `digest`). The bits are kept as a read-only copy.

    Parameters
    ----------
    layout : Layout
    live : ndarray, bool, shape (num_parameters,)
        True where a parameter is kept. Entries of tensors that are not prunable must be True.

    Attributes
    ----------
    digest : bytes
        blake2b-128 of the layout's digest and the packed bits of the prunable entries.
    num_live : int
        Number of live parameters.
    lengths : tuple[int, ...]
        Live parameters of each tensor, in layout order.

    Raises
    ------
    MaskError
        Wrong shape or dtype, or a pruned entry in a tensor that is not prunable.

    Examples
    --------
    >>> from hedgerow_codecs import TensorSpec
    >>> layout = Layout(tensors=(TensorSpec(name="w", shape=(4,), kind="linear", prunable=True),))
    >>> mask = Mask(layout=layout, live=np.array([True, False, False, True]))
    >>> mask.num_live, mask.density
    (2, 0.5)
    >>> mask.gather(np.array([1, 2, 3, 4], np.float32))
    array([1., 4.], dtype=float32)
    """

    layout: Layout
    live: NDArray[np.bool_] = field(repr=False)
    digest: bytes = field(init=False, repr=False)
    num_live: int = field(init=False)
    lengths: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        layout = self.layout
        live: NDArray[Any] = np.array(self.live)
        if live.dtype != np.bool_ or live.shape != (layout.num_parameters,):
            raise MaskError(
                f"mask must be bool of shape ({layout.num_parameters},), got {live.dtype} of {live.shape}"
            )
        lengths = []
        bits = []
        for tensor, start in zip(layout.tensors, layout.offsets, strict=False):
            part = live[start : start + tensor.size]
            lengths.append(int(np.count_nonzero(part)))
            if tensor.prunable:
                bits.append(part)
            elif lengths[-1] != tensor.size:
                raise MaskError(f"tensor {tensor.name!r} is not prunable but masked", tensor=tensor.name)
        live.flags.writeable = False
        packed = np.packbits(np.concatenate(bits), bitorder="little").tobytes() if bits else b""
        object.__setattr__(self, "live", live)
        object.__setattr__(self, "lengths", tuple(lengths))
        object.__setattr__(self, "num_live", sum(lengths))
        object.__setattr__(self, "digest", blake2b(layout.digest + packed, digest_size=DIGEST_BYTES).digest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @staticmethod
    def dense(layout: Layout) -> Mask:
        """Make the mask under which every parameter is live."""
        return Mask(layout=layout, live=np.ones(layout.num_parameters, np.bool_))

    def opposite(self) -> Mask:
        """Return the mask of what is pruned; parameters that are not prunable are live on either side."""
        return Mask(layout=self.layout, live=~self.live | ~self.layout.prunable())

    @property
    def density(self) -> float:
        """Live share of all parameters of the layout, 0 to 1 inclusive (1 where it has none)."""
        return self.num_live / self.layout.num_parameters if self.layout.num_parameters else 1.0

    @property
    def positions(self) -> NDArray[np.int64]:
        """Flat positions of the live parameters, ascending, shape ``(num_live,)``; made anew at each call."""
        return np.flatnonzero(self.live).astype(np.int64, copy=False)

    def gather(self, flat: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Take the live entries of a flat vector.

        Parameters
        ----------
        flat : ndarray, shape (num_parameters,)

        Returns
        -------
        ndarray, shape (num_live,)
            A copy, in ascending flat position, of the same dtype.

        Raises
        ------
        LayoutError
            `flat` has another shape.
        """
        self.layout.check_flat(flat)
        taken: NDArray[_Scalar] = flat[self.live]
        return taken

    def scatter(self, live_vector: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Put live entries back into a flat vector that is zero elsewhere.

        Parameters
        ----------
        live_vector : ndarray, shape (num_live,)

        Returns
        -------
        ndarray, shape (num_parameters,)

        Raises
        ------
        MaskError
            `live_vector` has another shape.
        """
        if live_vector.shape != (self.num_live,):
            raise MaskError(f"live vector must have shape ({self.num_live},), got {live_vector.shape}")
        flat = np.zeros(self.layout.num_parameters, live_vector.dtype)
        flat[self.live] = live_vector
        return flat
