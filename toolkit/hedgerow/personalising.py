"""From a client's state folder and its own data to a model of its own, as a checked ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow_codecs import Frozen, Layout, LayoutError, Mask, signed_constants
from hedgerow_edge_client import (
    Crashed,
    Failed,
    PersonalRule,
    Progress,
    Snapshot,
    Trained,
    TrainerCrashed,
    TrainerProcess,
    TrainRequest,
    TrainResult,
    read_snapshot,
    scan_task,
)

if TYPE_CHECKING:
    from hedgerow_export import Product

TEMPLATE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """How a device adapts the shared model to its own data.

    Attributes
    ----------
    epochs : int
        Passes over the data; 0 exports the model as it is.
    batch_size : int
    learning_rate : float
    held_out : float
        Share of the data that is measured on and not trained on, where the task holds none out itself.
    freeze : tuple[str, ...]
        Patterns of tensors that stay as they are, as in ``[model] freeze``.
    last : bool
        Train the last layer alone.
    threads : int
        Of torch.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.01
    held_out: float = 0.2
    freeze: tuple[str, ...] = ()
    last: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalFacts:
    """What came of it; the metric is that of the task, on `num_held_out` samples that were not trained on.

    Attributes
    ----------
    version : int
        Rounds behind the shared model.
    before, after, exported : float
        The metric of the model as it came, of the adapted one in torch, and of the file.
    was_seen : bool
        Whether the run may have trained on what is held out here.
    max_abs_error : float
        Between the file's outputs and torch's.
    """

    run: str
    version: int
    density: float
    metric: str
    higher_is_better: bool
    before: float
    after: float
    exported: float
    num_trained: int
    num_held_out: int
    was_seen: bool
    max_abs_error: float
    top1_agreement: float | None
    onnx_bytes: int
    product: Product = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the model's bytes, as JSON values."""
        own = {name: getattr(self, name) for name in self.__slots__ if name != "product"}
        return own | {"model": asdict(self.product.made)}


def personalise(
    task: Path,
    *,
    state: Path,
    data: Path | None,
    client: str,
    output: Path,
    adaptation: Adaptation,
    template: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> PersonalFacts:
    """Adapt the model in a client's state folder to its data, and write it as ONNX.

    The model is the last one that came, under the device's own mask where it has one. The state folder is
    only read.

    Parameters
    ----------
    task, data, client
        As the client was given them.
    state
        Its state folder.
    output
        The file; replaced only by a model that computes what torch does.
    template
        The ONNX template of the run; None makes one, which takes some seconds.
    on_progress
        Told how training goes.

    Raises
    ------
    hedgerow.errors.UsageError
        There is no model in the folder, or not enough data.
    hedgerow_edge_client.errors.EdgeClientError
        The folder or the task cannot be used, or training fails.
    hedgerow_export.ExportError
        The model does not agree, or cannot be written.
    """
    from hedgerow_export import (
        Recipe,
        Sample,
        fill_checked,
        find_metric,
        make_product,
        read_model,
        write_atomically,
    )

    scan_task(task)
    snapshot = read_snapshot(state)
    if snapshot.version < 0:
        raise UsageError(f"{state} holds no model yet: let the client take part in a run first")
    given = None if template is None else read_model(template)
    with TrainerProcess(task, data=data, client=client, threads=adaptation.threads) as trainer:
        description = trainer.describe(timeout_s=TEMPLATE_TIMEOUT_S)
        layout = description.layout
        if snapshot.layout != layout.digest:
            raise UsageError(f"{state} holds another model than {task} makes: name the task file of that run")
        held = trainer.held_out(adaptation.held_out)
        if held is None:
            raise UsageError(
                f"there is nothing to measure on: {description.num_samples} samples, of which the share "
                f"{adaptation.held_out:g} is held out; give this device more data, or raise --held-out"
            )
        inputs, targets = held.inputs, held.targets
        weights, mask = own_model(snapshot, layout)
        before = trainer.predict(weights, inputs)
        result, adapted = None, weights
        if adaptation.epochs:
            request = _request(weights, mask, adaptation=adaptation, layout=layout)
            result = _trained(trainer, request, on_progress=on_progress)
            adapted = result.weights
        after = trainer.predict(adapted, inputs)
        made = given or trainer.template(timeout_s=TEMPLATE_TIMEOUT_S)
    metric = find_metric(description.metric)

    def score(outputs: NDArray[Any]) -> float:
        return float(metric.score(outputs, targets).mean())

    facts = {"run": snapshot.run, "round": str(snapshot.version), "client": client}
    facts |= {description.metric: f"{score(after):.6g}"}
    filled, verification = fill_checked(made, adapted, mask, metadata=facts, inputs=inputs, reference=after)
    product = make_product(filled, Sample(inputs=inputs, targets=targets, metric=metric), Recipe())
    write_atomically(output, product.model)
    return PersonalFacts(
        run=snapshot.run,
        version=snapshot.version,
        density=mask.density,
        metric=description.metric,
        higher_is_better=metric.higher_is_better,
        before=score(before),
        after=score(after),
        exported=float(product.made.metric if product.made.metric is not None else score(after)),
        num_trained=0 if result is None else result.num_samples,
        num_held_out=len(inputs),
        was_seen=snapshot.personal is None and not held.by_task,
        max_abs_error=verification.max_abs_error,
        top1_agreement=verification.top1_agreement,
        onnx_bytes=product.made.file_bytes,
        product=product,
    )


def own_model(snapshot: Snapshot, layout: Layout) -> tuple[NDArray[np.float32], Mask]:
    """Return the weights and the mask of the model that a device has.

    They are the shared ones, under the device's own mask where it has one. Of probabilities (FedPM) it is the
    likeliest network.
    """
    live, weights = snapshot.live, snapshot.weights
    if snapshot.personal is not None:
        live = live & snapshot.personal
    if snapshot.sampled is not None:
        has = weights >= 0.5
        weights = np.where(has, signed_constants(layout, seed=snapshot.sampled), np.float32(0))
        live = has | ~layout.prunable()
    mask = Mask(layout=layout, live=live)
    return np.where(mask.live, weights, np.float32(0)), mask


def frozen_names(layout: Layout, adaptation: Adaptation) -> tuple[str, ...]:
    """Return the tensors that stay as they are.

    Raises
    ------
    hedgerow.errors.UsageError
        A pattern means none, or nothing is left to train.
    """
    try:
        names = set(Frozen.matching(layout, adaptation.freeze).names)
    except LayoutError as error:
        raise UsageError(f"--freeze: {error}") from error
    if adaptation.last:
        weights = [tensor.name for tensor in layout.tensors if tensor.kind not in ("bias", "norm", "buffer")]
        last = weights[-1].rpartition(".")[0]
        names |= {tensor.name for tensor in layout.tensors if tensor.name.rpartition(".")[0] != last}
    if len(names) == len(layout.tensors):
        raise UsageError("all layers are frozen, so there is nothing to train")
    return tuple(tensor.name for tensor in layout.tensors if tensor.name in names)


def _request(
    weights: NDArray[np.float32], mask: Mask, *, adaptation: Adaptation, layout: Layout
) -> TrainRequest:
    return TrainRequest(
        round=0,
        seed=0,
        epochs=adaptation.epochs,
        batch_size=adaptation.batch_size,
        learning_rate=adaptation.learning_rate,
        weights=weights,
        live=mask.live,
        frozen=frozen_names(layout, adaptation),
        # Density 1: nothing is thinned here; the same data is held out as in the run.
        personal=PersonalRule(held_out=adaptation.held_out),
    )


def _trained(
    trainer: TrainerProcess, request: TrainRequest, *, on_progress: Callable[[Progress], None] | None
) -> TrainResult:
    from hedgerow_edge_client.errors import EdgeClientError

    trainer.start_train(request)
    while True:
        event = trainer.events.get()
        if isinstance(event, Progress):
            if on_progress is not None:
                on_progress(event)
        elif isinstance(event, Trained):
            return event.result
        elif isinstance(event, Crashed):
            raise TrainerCrashed(event.reason)
        elif isinstance(event, Failed):
            raise EdgeClientError(event.reason)
