"""ONNX operators of nets of magnitudes, forwards and backwards, in numpy.

Each takes its inputs and attributes and returns its output and the function from the gradient of that to the
gradients of the inputs (None for those that have none). All activations are at least 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_coordinator.errors import PruningError

Array = NDArray[Any]
Backward = Callable[[Array], list[Array | None]]
Operator = Callable[[list[Any], Mapping[str, Any]], tuple[Array, Backward]]


def _add(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    left, right = inputs
    return left + right, lambda grad: [_reduced(grad, left.shape), _reduced(grad, right.shape)]


def _multiply(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    left, right = inputs
    return left * right, lambda grad: [_reduced(grad * right, left.shape), _reduced(grad * left, right.shape)]


def _gemm(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    left, right = inputs[0], inputs[1]
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    flip_left, flip_right = attributes.get("transA", 0), attributes.get("transB", 0)
    a, b = (left.T if flip_left else left), (right.T if flip_right else right)
    output = alpha * (a @ b)
    if len(inputs) > 2 and inputs[2] is not None:
        output = output + beta * inputs[2]

    def backward(grad: Array) -> list[Array | None]:
        of_a, of_b = alpha * (grad @ b.T), alpha * (a.T @ grad)
        found: list[Array | None] = [of_a.T if flip_left else of_a, of_b.T if flip_right else of_b]
        if len(inputs) > 2 and inputs[2] is not None:
            found.append(_reduced(beta * grad, inputs[2].shape))
        return found

    return output, backward


def _matmul(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    left, right = inputs
    if left.ndim < 2 or right.ndim < 2:
        raise PruningError(
            "SynFlow cannot follow a product with a vector in this model: choose another score"
        )

    def backward(grad: Array) -> list[Array | None]:
        of_left = grad @ np.swapaxes(right, -1, -2)
        of_right = np.swapaxes(left, -1, -2) @ grad
        return [_reduced(of_left, left.shape), _reduced(of_right, right.shape)]

    return left @ right, backward


def _relu(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    return np.maximum(inputs[0], 0), lambda grad: [grad * (inputs[0] > 0)]


def _clip(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    value = inputs[0]
    lower, upper, *_rest = *inputs[1:], None, None
    low = -np.inf if lower is None else float(lower)
    high = np.inf if upper is None else float(upper)
    return np.clip(value, low, high), lambda grad: [grad * ((value > low) & (value < high)), None, None]


def _same(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    return inputs[0], lambda grad: [grad, *[None] * (len(inputs) - 1)]


def _normalise(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    """Batch normalisation by its running statistics, all of them magnitudes."""
    value, scale, bias, mean, variance = inputs
    shape = (1, -1, *[1] * (value.ndim - 2))
    axes = tuple(axis for axis in range(value.ndim) if axis != 1)
    inverse = 1.0 / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    centred = (value - mean.reshape(shape)) * inverse.reshape(shape)

    def backward(grad: Array) -> list[Array | None]:
        of_value = grad * (scale * inverse).reshape(shape)
        return [of_value, (grad * centred).sum(axis=axes), grad.sum(axis=axes), None, None]

    return centred * scale.reshape(shape) + bias.reshape(shape), backward


def _reshape(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    value, wanted = inputs[0], [int(size) for size in inputs[1]]
    if not attributes.get("allowzero", 0):
        wanted = [value.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return value.reshape(wanted), lambda grad: [grad.reshape(value.shape), None]


def _flatten(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    value, axis = inputs[0], attributes.get("axis", 1)
    rows = int(np.prod(value.shape[:axis])) if axis else 1
    return value.reshape(rows, -1), lambda grad: [grad.reshape(value.shape)]


def _transpose(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    order = list(attributes.get("perm", range(inputs[0].ndim)[::-1]))
    return inputs[0].transpose(order), lambda grad: [grad.transpose(np.argsort(order))]


def _concat(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    axis = attributes["axis"]
    cuts = list(itertools.accumulate(part.shape[axis] for part in inputs))[:-1]
    return np.concatenate(inputs, axis=axis), lambda grad: list(np.split(grad, cuts, axis=axis))


def _mean(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    value = inputs[0]
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else range(value.ndim)
    over = tuple(int(axis) % value.ndim for axis in axes)
    kept = value.mean(axis=over, keepdims=True)
    count = value.size // kept.size

    def backward(grad: Array) -> list[Array | None]:
        return [np.broadcast_to(grad.reshape(kept.shape) / count, value.shape), None]

    shape = (
        kept.shape
        if attributes.get("keepdims", 1)
        else tuple(size for axis, size in enumerate(value.shape) if axis not in over)
    )
    return kept.reshape(shape), backward


def _global_mean(inputs: list[Any], _: Mapping[str, Any]) -> tuple[Array, Backward]:
    return _mean([inputs[0], np.arange(2, inputs[0].ndim)], {"keepdims": 1})


def _conv(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    value, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    window = _Window(value, weight.shape[2:], attributes, fill=0.0)
    groups = attributes.get("group", 1)
    per_group, outputs = value.shape[1] // groups, weight.shape[0] // groups
    letters = "xyz"[: value.ndim - 2]
    kernel = "uvw"[: value.ndim - 2]
    result = np.zeros((value.shape[0], weight.shape[0], *window.out_shape))
    spans = [
        (slice(g * per_group, (g + 1) * per_group), slice(g * outputs, (g + 1) * outputs))
        for g in range(groups)
    ]
    patches = window.patches()
    forth = f"nc{letters}{kernel},oc{kernel}->no{letters}"
    for ins, outs in spans:
        result[:, outs] = np.einsum(forth, patches[:, ins], weight[outs], optimize=True)

    def backward(grad: Array) -> list[Array | None]:
        of_weight = np.empty_like(weight, np.float64)
        of_patches = np.empty(patches.shape)
        for ins, outs in spans:
            of_weight[outs] = np.einsum(
                f"nc{letters}{kernel},no{letters}->oc{kernel}", patches[:, ins], grad[:, outs], optimize=True
            )
            of_patches[:, ins] = np.einsum(
                f"no{letters},oc{kernel}->nc{letters}{kernel}", grad[:, outs], weight[outs], optimize=True
            )
        axes = (0, *range(2, value.ndim))
        found: list[Array | None] = [window.folded(of_patches), of_weight]
        return found if bias is None else [*found, grad.sum(axis=axes)]

    return (result if bias is None else result + bias.reshape(1, -1, *[1] * len(letters))), backward


def _max_pool(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    value = inputs[0]
    window = _Window(value, attributes["kernel_shape"], attributes, fill=-np.inf)
    patches = window.patches()
    flat = patches.reshape(*patches.shape[: value.ndim], -1)
    # Of equal ones the first, as in torch.
    best = flat.argmax(axis=-1)[..., None]

    def backward(grad: Array) -> list[Array | None]:
        spread = np.zeros(flat.shape)
        np.put_along_axis(spread, best, grad[..., None], axis=-1)
        return [window.folded(spread.reshape(patches.shape))]

    return np.take_along_axis(flat, best, axis=-1)[..., 0], backward


def _mean_pool(inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[Array, Backward]:
    value = inputs[0]
    window = _Window(value, attributes["kernel_shape"], attributes, fill=0.0)
    patches = window.patches()
    axes = tuple(range(value.ndim, patches.ndim))
    counts: Array = np.array(float(np.prod(attributes["kernel_shape"])))
    if not attributes.get("count_include_pad", 0):
        counts = _Window(np.ones(value.shape), attributes["kernel_shape"], attributes, fill=0.0).patches()
        counts = counts.sum(axis=axes)

    def backward(grad: Array) -> list[Array | None]:
        even = (grad / counts)[(..., *[None] * len(axes))]
        return [window.folded(np.broadcast_to(even, patches.shape))]

    return patches.sum(axis=axes) / counts, backward


_ALL = slice(None)


def _at(place: tuple[int, ...]) -> tuple[slice | int, ...]:
    """Index one place in the kernel of patches, for all rows, channels and outputs."""
    return (_ALL, _ALL, *[_ALL] * len(place), *place)


class _Window:
    """The places of a kernel on a padded input ``(n, c, ...)``."""

    def __init__(
        self, value: Array, kernel: Sequence[int], attributes: Mapping[str, Any], *, fill: float
    ) -> None:
        dims = value.ndim - 2
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET") or attributes.get("ceil_mode"):
            raise PruningError("SynFlow cannot follow automatic padding in this model: choose another score")
        pads = list(attributes.get("pads", [0] * 2 * dims))
        self._value = value
        self._kernel = [int(size) for size in kernel]
        self._strides = list(attributes.get("strides", [1] * dims))
        self._dilations = list(attributes.get("dilations", [1] * dims))
        self._before = pads[:dims]
        width = [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)]
        self._padded = np.pad(value, width, constant_values=fill)
        sizes = zip(self._padded.shape[2:], self._kernel, self._strides, self._dilations, strict=True)
        self.out_shape = tuple(
            (size - (places - 1) * apart - 1) // step + 1 for size, places, step, apart in sizes
        )

    def _parts(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Yield each place in the kernel, and where on the padded input it lies for all outputs."""
        for place in itertools.product(*map(range, self._kernel)):
            spans = zip(place, self._dilations, self._strides, self.out_shape, strict=True)
            yield (
                place,
                tuple(
                    slice(at * apart, at * apart + (count - 1) * step + 1, step)
                    for at, apart, step, count in spans
                ),
            )

    def patches(self) -> Array:
        """Return ``(n, c, *out, *kernel)``."""
        found = np.empty((*self._value.shape[:2], *self.out_shape, *self._kernel))
        for place, spans in self._parts():
            found[_at(place)] = self._padded[(_ALL, _ALL, *spans)]
        return found

    def folded(self, patches: Array) -> Array:
        """Return the sums of patches at the places that they were taken from, ``(n, c, ...)``."""
        total = np.zeros(self._padded.shape)
        for place, spans in self._parts():
            total[(_ALL, _ALL, *spans)] += patches[_at(place)]
        inner = zip(self._before, self._value.shape[2:], strict=True)
        cut: tuple[slice, ...] = (_ALL, _ALL, *[slice(at, at + size) for at, size in inner])
        return total[cut]


def _reduced(grad: Array, shape: tuple[int, ...]) -> Array:
    """Undo numpy's broadcasting: sum over what was repeated."""
    extra = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(range(extra))) if extra else grad
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and grad.shape[axis] != 1)
    return grad.sum(axis=axes, keepdims=True) if axes else grad


OPERATORS: Mapping[str, Operator] = {
    "Add": _add,
    "AveragePool": _mean_pool,
    "BatchNormalization": _normalise,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Dropout": _same,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "Identity": _same,
    "LeakyRelu": _same,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
