"""First models from a seed: PyTorch's default distributions, the same bits on every machine.

All arithmetic up to the last exact scaling is on integers: splitmix64 (Steele 2014) as a counter-based
generator, keyed by seed and tensor name, so that the streams of numpy or torch may change as they like.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import KindError, LayoutError, PayloadError, UnencodableError
from hedgerow_codecs.frame import NO_BASE, FrameKind, model_digest, read_header, seal, unseal
from hedgerow_codecs.layout import Layout, TensorSpec
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.splitmix import splitmix

_BLOCK = 1 << 18


def seeded_parameters(layout: Layout, *, seed: int) -> NDArray[np.float32]:
    """Draw a model's first parameters.

    Weights of convolutions and linear layers and their biases are U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as
    ``kaiming_uniform_(a=sqrt(5))`` makes them; recurrent tensors U(-1/sqrt(hidden), 1/sqrt(hidden));
    embeddings the sum of twelve uniforms, whose mean is 0 and variance 1; norms 1 and 0; running statistics
    0 and 1.

    Parameters
    ----------
    layout : Layout
    seed : int
        0 to 2**64 - 1 inclusive.

    Returns
    -------
    ndarray, float32, shape (num_parameters,)

    Raises
    ------
    LayoutError
        A tensor whose kind and name do not tell how PyTorch would fill it.
    UnencodableError
        A seed out of range.
    """
    if not 0 <= seed < 2**64:
        raise UnencodableError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    flat = np.empty(layout.num_parameters, np.float32)
    tensors = {tensor.name: tensor for tensor in layout.tensors}
    for tensor, start in zip(layout.tensors, layout.offsets, strict=False):
        part = flat[start : start + tensor.size]
        if tensor.kind in ("norm", "buffer"):
            part[:] = _constant(tensor)
        elif tensor.kind == "embedding":
            _fill_normal(part, key=_key(seed, tensor.name))
        else:
            _fill_uniform(part, key=_key(seed, tensor.name), fan=fan_of(tensor, tensors))
    return flat


def encode_seeded(layout: Layout, *, seed: int) -> bytes:
    """Encode a seed as a keyframe: 81 bytes for a whole first model."""
    mask = Mask.dense(layout)
    digest = model_digest(seeded_parameters(layout, seed=seed), mask=mask)
    payload = seed.to_bytes(8, "little") + digest
    return seal(payload, kind=FrameKind.SEEDED, codec=0, mask=mask, base=NO_BASE)


def decode_seeded(frame: bytes, *, layout: Layout) -> NDArray[np.float32]:
    """Draw the parameters that a seeded frame stands for, float32, shape ``(num_parameters,)``.

    Raises
    ------
    FrameError
        Damaged, not a seed, for another layout, or this machine draws another model than the writer did.
    """
    header = read_header(frame)
    if header.kind != FrameKind.SEEDED:
        raise KindError(f"expected a seed, got a frame of kind {header.kind.name}", offset=3)
    mask = Mask.dense(layout)
    payload = unseal(frame, layout=layout, mask=mask.digest, base=NO_BASE)
    if len(payload) != 24:
        raise PayloadError(f"a seed and a digest take 24 bytes, got {len(payload)}")
    flat = seeded_parameters(layout, seed=int.from_bytes(payload[:8], "little"))
    if model_digest(flat, mask=mask) != payload[8:]:
        raise PayloadError("the seed gives another model here than it gave its writer", offset=8)
    return flat


def _constant(tensor: TensorSpec) -> float:
    leaf = tensor.name.rpartition(".")[2]
    known = {
        "norm": {"weight": 1.0, "bias": 0.0},
        "buffer": {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0},
    }
    if leaf not in known[tensor.kind]:
        raise LayoutError(f"tensor {tensor.name!r}: no first value is known for it", tensor=tensor.name)
    return known[tensor.kind][leaf]


def fan_of(tensor: TensorSpec, tensors: dict[str, TensorSpec]) -> int:
    """Return the number whose inverse square root bounds the tensor's values."""
    stem, _, leaf = tensor.name.rpartition(".")
    prefix = f"{stem}." if stem else ""
    if leaf.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
        suffix = leaf.partition("_")[2][2:]
        hidden = tensors.get(prefix + "weight_hh" + suffix)
        if hidden is not None and len(hidden.shape) == 2 and prefix + "weight_hr" + suffix not in tensors:
            return hidden.shape[1]
    elif tensor.kind in ("conv", "linear") and len(tensor.shape) >= 2:
        return math.prod(tensor.shape[1:])
    elif tensor.kind == "bias":
        weight = tensors.get(prefix + "weight")
        if weight is not None and weight.kind in ("conv", "linear") and len(weight.shape) >= 2:
            return math.prod(weight.shape[1:])
    raise LayoutError(
        f"tensor {tensor.name!r} of kind {tensor.kind!r}: no first distribution is known for it",
        tensor=tensor.name,
    )


def _key(seed: int, name: str) -> int:
    digest = blake2b(seed.to_bytes(8, "little") + name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _fill_uniform(part: NDArray[np.float32], *, key: int, fan: int) -> None:
    bound = math.isqrt((1 << 48) // fan)  # in units of 2**-24
    for start in range(0, part.size, _BLOCK):
        block = part[start : start + _BLOCK]
        words = splitmix(key, start=start, count=block.size) >> np.uint64(32)
        drawn = ((words * np.uint64(2 * bound + 1)) >> np.uint64(32)).astype(np.int64) - bound
        block[:] = np.ldexp(
            drawn.astype(np.float64), -24
        )  # at most 25 significant bits, the last of them zero


def _fill_normal(part: NDArray[np.float32], *, key: int) -> None:
    for start in range(0, part.size, _BLOCK):
        block = part[start : start + _BLOCK]
        words = splitmix(key, start=3 * start, count=3 * block.size)
        sums = words.astype("<u8").view("<u2").reshape(block.size, 12).sum(axis=1, dtype=np.int64)
        block[:] = np.ldexp((2 * sums - 12 * 0xFFFF).astype(np.float64), -17)
