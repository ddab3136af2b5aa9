"""A torch module becomes an ONNX template, once. The only file here that imports torch, and only when it is
used.

The trap this file is built around: exporters and optimisers merge equal tensors, fold tensors into each
other (batch normalisation into a convolution, a transposed copy of a linear weight) and rename them. The
model is right at that moment, and silently wrong after other weights were put in. So the tensors of the
layout are random while the graph is made, are graph *inputs* while it is optimised, and the outcome is
compared with the module under other weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow_codecs import Layout
from hedgerow_export.errors import TemplateError
from hedgerow_export.exporter_failure import explain_crash, explain_failure, first_line
from hedgerow_export.exporter_noise import quiet
from hedgerow_export.filling import fill_template
from hedgerow_export.model_proto import parse_model, serialize_model
from hedgerow_export.optional import require
from hedgerow_export.runner import Runner
from hedgerow_export.tidying import tidy_graph
from hedgerow_export.verification import check_form

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 20
_TOLERANCE = 1e-4
_EXPORT_ROWS = 3  # torch.export treats batches of 0 and 1 as constants, and 2 is too common a size elsewhere


def make_template(
    module: torch.nn.Module, example_input: torch.Tensor | ArrayLike, *, layout: Layout
) -> bytes:
    """Turn a torch module into an ONNX template that holds the module's weights.

    Parameters
    ----------
    module : torch.nn.Module
        A module with one tensor as input. It is copied, not changed; the copy is exported in evaluation mode.
    example_input : Tensor or array_like, shape (n, ...)
        At least one row of real inputs. The batch dimension becomes dynamic, the others stay as they are
        here.
    layout : Layout
        The module's float tensors (parameters and running statistics), by their names in the state dict.

    Returns
    -------
    bytes
        A model with opset 20 and IR version 10 in one file, whose initialisers carry the layout's names and
        shapes, with the layout inside.

    Raises
    ------
    TemplateError
        Names the tensor, module or operator for which this does not work.
    MissingPackageError
        torch, onnx, onnxscript or onnxruntime is not installed.
    """
    require("torch", "onnx", "onnxscript", "onnxruntime")
    import torch

    rows = _example_rows(example_input)
    copied = _copy_module(module)
    state = _layout_tensors(copied, layout)
    real = layout.join({name: tensor.detach().numpy() for name, tensor in state.items()})
    _write(state, layout, _random_weights(layout, seed=1))
    with torch.no_grad(), quiet():
        _check_runs(copied, rows)
        model = _export(copied, rows[:_EXPORT_ROWS])
        model = tidy_graph(model, layout)
        _add_unused_tensors(model, copied, layout, rows)
        template = serialize_model(model)
        _check_under_other_weights(template, copied, layout, rows)
    check_form(parse_model(template))
    return fill_template(template, real, layout=layout)


def _example_rows(example: torch.Tensor | ArrayLike) -> torch.Tensor:
    """Return five rows made of the given ones; enough for the export and the comparison."""
    import torch

    rows = (
        example.detach().cpu() if isinstance(example, torch.Tensor) else torch.as_tensor(np.asarray(example))
    )
    if rows.ndim == 0 or len(rows) == 0:
        raise TemplateError(f"The example input needs at least one row, got shape {tuple(rows.shape)}.")
    if rows.dtype == torch.float64:
        rows = rows.float()
    rows = rows[torch.arange(5) % len(rows)].contiguous()
    if rows.is_floating_point():  # all rows must differ, or a constant made of one of them goes unnoticed
        noise = np.random.default_rng(0).standard_normal(tuple(rows.shape))
        rows = rows + 0.1 * torch.from_numpy(noise).to(rows.dtype) * (rows.abs() + 0.1)
    return rows


def _copy_module(module: torch.nn.Module) -> torch.nn.Module:
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:  # tensors that are results of a computation cannot be copied
        raise TemplateError(
            f"The module cannot be copied ({first_line(error)}); "
            "build it anew and load its state dict before exporting."
        ) from error
    return copied.cpu().eval()


def _layout_tensors(module: torch.nn.Module, layout: Layout) -> dict[str, torch.Tensor]:
    """Return the module's tensors in layout order, each checked against its spec."""
    import torch

    held = module.state_dict()
    owners: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    for spec in layout.tensors:
        tensor = held.get(spec.name)
        if tensor is None:
            raise TemplateError(f"The module has no tensor {spec.name!r}; the layout has.", tensor=spec.name)
        if tuple(tensor.shape) != spec.shape or tensor.dtype != torch.float32:
            raise TemplateError(
                f"Tensor {spec.name!r} is {_dtype(tensor)} of shape {tuple(tensor.shape)} in the module; "
                f"the layout wants float32 of shape {spec.shape}.",
                tensor=spec.name,
            )
        other = owners.setdefault(tensor.data_ptr(), spec.name)
        if other != spec.name:
            raise TemplateError(
                f"Tensors {other!r} and {spec.name!r} share their values; leave one out of the layout.",
                tensor=spec.name,
            )
        tensors[spec.name] = tensor
    return tensors


def _random_weights(layout: Layout, *, seed: int) -> NDArray[np.float32]:
    """Return weights that are all different and keep signals of a usual size.

    Vectors lie in [0.5, 1.5): a running variance must be positive, a scale should not be near zero.
    """
    rng = np.random.default_rng(seed)
    flat = np.empty(layout.num_parameters, np.float32)
    for part in layout.split(flat).values():
        if part.ndim < 2:
            part[...] = rng.uniform(0.5, 1.5, part.shape)
        else:
            part[...] = rng.standard_normal(part.shape) / np.sqrt(part[0].size)
    return flat


def _write(state: Mapping[str, torch.Tensor], layout: Layout, flat: NDArray[np.float32]) -> None:
    import torch

    with torch.no_grad():
        for name, part in layout.split(flat).items():
            state[name].copy_(torch.from_numpy(part))


def _check_runs(module: torch.nn.Module, rows: torch.Tensor) -> None:
    try:
        output = _first_output(module(rows))
    except TemplateError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise explain_crash(error, dict(module.named_modules()), shape=tuple(rows.shape)) from error
    if output.ndim == 0 or len(output) != len(rows):
        raise TemplateError(
            f"The module's output has shape {tuple(output.shape)} for a batch of {len(rows)}; "
            "its first dimension must be the batch."
        )


def _export(module: torch.nn.Module, rows: torch.Tensor) -> onnx.ModelProto:
    import torch

    try:
        program = torch.onnx.export(
            module,
            (rows,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            output_names=["output"],
            external_data=False,
            # Its optimiser folds and merges weights; ours runs later, when it cannot see them.
            optimize=False,
            verbose=False,
        )
    # The exporter runs the user's module, which may raise anything.
    except Exception as error:
        raise explain_failure(error, dict(module.named_modules())) from error
    if program is None:
        raise TemplateError("torch's exporter returned nothing.")
    return program.model_proto


def _add_unused_tensors(
    model: onnx.ModelProto, module: torch.nn.Module, layout: Layout, rows: torch.Tensor
) -> None:
    """Keep tensors that the forward pass never reads, so that every tensor of the layout has its place."""
    from onnx import numpy_helper

    state = module.state_dict()
    held = {tensor.name for tensor in model.graph.initializer}
    before = _first_output(module(rows))
    for spec in layout.tensors:
        if spec.name in held:
            continue
        value = state[spec.name].clone()
        state[spec.name].mul_(-2.0)
        changed = not bool((_first_output(module(rows)) == before).all())
        state[spec.name].copy_(value)
        if changed:
            raise TemplateError(
                f"The exporter folded tensor {spec.name!r} into another one, so it cannot be replaced.",
                tensor=spec.name,
                module=spec.name.rpartition(".")[0] or None,
            )
        model.graph.initializer.append(numpy_helper.from_array(value.numpy(), spec.name))


def _check_under_other_weights(
    template: bytes, module: torch.nn.Module, layout: Layout, rows: torch.Tensor
) -> None:
    other = _random_weights(layout, seed=2)
    _write(module.state_dict(), layout, other)
    runner = Runner(fill_template(template, other, layout=layout))
    for count in (1, len(rows)):
        wanted = _first_output(module(rows[:count])).numpy()
        got = runner(rows[:count].numpy())
        largest = float(np.abs(wanted).max(initial=0.0))
        # The second bound is for outputs that are all small, as those of a softmax over many classes.
        allowed = min(_TOLERANCE * max(1.0, largest), 10 * _TOLERANCE * largest + 1e-6)
        if got.shape != wanted.shape:
            raise TemplateError(
                f"The exported model's output has shape {got.shape}, the module's has {wanted.shape}."
            )
        error = float(np.abs(got - wanted).max(initial=0.0))
        if not error <= allowed:
            raise TemplateError(
                f"With other weights the exported model is off by {error:.3g} from the module: the exporter "
                "has replaced a value that depends on the weights or on the inputs by a constant."
            )


def _first_output(output: Any) -> torch.Tensor:
    import torch

    while not isinstance(output, torch.Tensor):
        if isinstance(output, Mapping):
            output = next(iter(output.values()), None)
        elif isinstance(output, Sequence) and len(output):
            output = output[0]
        else:
            raise TemplateError(
                f"The module returns {type(output).__name__}; its first output must be a tensor."
            )
    return output.detach()


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
