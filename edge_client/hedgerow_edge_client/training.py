"""Local training under a mask: batches, steps, and what is asked besides."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Frozen, Layout, candidate_counts
from hedgerow_edge_client.activations import thinned_activations
from hedgerow_edge_client.candidates import candidate_losses
from hedgerow_edge_client.descent import Descent
from hedgerow_edge_client.errors import TaskError, TrainingCancelled, TrainingDiverged
from hedgerow_edge_client.forward import forward
from hedgerow_edge_client.freezing import frozen_tensors
from hedgerow_edge_client.label_mask import with_masked_labels
from hedgerow_edge_client.mask_descent import MaskDescent
from hedgerow_edge_client.parameters import module_layout, read_parameters, write_parameters
from hedgerow_edge_client.proposals import open_tensors, propose, strongest, wished
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.requests import Progress, TrainRequest, TrainResult
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.scores import Bench, draw_batches, score
from hedgerow_edge_client.task import Task
from hedgerow_edge_client.ticket import draw_ticket
from hedgerow_edge_client.width_scaling import scaled_outputs
from hedgerow_export import MetricError, find_metric


def train(
    module: nn.Module,
    samples: Samples,
    request: TrainRequest,
    *,
    task: Task,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    held_out: Samples | None = None,
) -> TrainResult:
    """Train `module` from the request's weights and return what came out.

    The same request on the same samples gives the same bits, whatever ran before in this process, if the
    module's counters are what they were. Weights that are not live stay what they are. Each step is
    ``v = momentum v + g + weight_decay w + mu (w - w0)`` and ``w = w - learning_rate v``, with ``v = 0`` at
    first, as in `torch.optim.SGD`; mu is FedProx's (Li 2020, eq. 2). With a `power` a above 1 the weights of
    linear and convolution layers are ``w = u |u|^(a - 1)``, and the step is one of u (Schwarz 2021, eq. 1):
    what is large moves more, and what is near zero stays there. With `biased`, a tensor with dead weights has
    the threshold t of its smallest live one: what falls below it on the way is 0 for the model until it is
    back, and keeps its value; the gradient of the others is multiplied by ``1 + 2 t |w| / (|w| + t)^2`` (Wu
    2024, "FIARSE", section 4, layer by layer). Tensors that the request calls frozen come out as they went
    in. For what its `shaping` adds, see `Shaping`.

    Parameters
    ----------
    module
        The task's model. Its float tensors are overwritten.
    samples
        The task's data.
    request
        Where from and how.
    task
        Gives the loss, the metric and the protected tensors.
    on_progress
        Called after every batch.
    should_stop
        Asked before every batch.
    held_out
        What the task itself holds out, for personal models.

    Raises
    ------
    TrainingDiverged
        The loss or a weight is no finite number any more.
    TrainingCancelled
        `should_stop` said so.
    TaskError
        The user's code fails, or gives what cannot be used.
    ValueError
        The request's vectors do not fit the model.
    """
    frozen = frozen_tensors(module, request.frozen)
    with frozen, scaled_outputs(module, live=request.live, width=request.width):
        return _train(
            module,
            samples,
            request,
            task=task,
            on_progress=on_progress,
            should_stop=should_stop,
            held_out=held_out,
        )


def _train(
    module: nn.Module,
    samples: Samples,
    request: TrainRequest,
    *,
    task: Task,
    on_progress: Callable[[Progress], None] | None,
    should_stop: Callable[[], bool] | None,
    held_out: Samples | None,
) -> TrainResult:
    layout = module_layout(module, protect=task.protect)
    if request.weights.size != layout.num_parameters:
        raise ValueError(
            f"the request has {request.weights.size} weights, the model {layout.num_parameters}: "
            "is it of another version of the task?"
        )
    start = time.monotonic()
    _seed_everything(request.seed)
    ticket = None
    if request.personal is not None:
        ticket = draw_ticket(module, samples, request, task=task, layout=layout, held_out=held_out)
        request, samples = ticket.request, ticket.samples
    if request.mask_labels:
        task = with_masked_labels(task, samples)
    asked = _Asked(request, module=module, samples=samples, task=task, layout=layout)
    write_parameters(module, layout, request.weights)
    module.train()
    if request.question is not None and request.question.form == "trial":
        return asked.trial(start=start)
    asked.before_training()
    batches = _Batches(len(samples), request)
    num_steps = request.epochs * len(batches)
    descent: Descent | MaskDescent
    if request.sampled is None:
        descent = Descent(module, layout, request, live=request.live, num_steps=num_steps)
    else:
        descent = MaskDescent(module, layout, request)
    steps, tally = 0, _Tally()
    for epoch in range(1, request.epochs + 1):
        tally = _Tally()
        for number, indices in enumerate(batches.shuffled(), start=1):
            if should_stop is not None and should_stop():
                raise TrainingCancelled(f"training of round {request.round} was cancelled")
            steps += 1
            with thinned_activations(module, request.shaping.activations):
                loss, outputs, targets = forward(module, samples, indices, task)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise _diverged(request, steps, value)
            with task.blame("the loss's gradient"):
                torch.autograd.backward(loss)
            descent.step()
            if asked.is_due(steps, of=num_steps):
                descent = Descent(module, layout, request, live=asked.propose())
            tally.add(value, _accuracy(outputs, targets, task), count=len(indices))
            if on_progress is not None:
                on_progress(
                    Progress(
                        epoch=epoch, epochs=request.epochs, batch=number, batches=len(batches), loss=value
                    )
                )
            if request.max_seconds and time.monotonic() - start >= request.max_seconds:
                break
        else:
            continue
        break
    if isinstance(descent, MaskDescent):
        weights = descent.bits()
    else:
        descent.finish()
        asked.after_training(descent)
        weights = read_parameters(module, layout)
    frozen = Frozen(layout=layout, names=request.frozen).entries
    weights[frozen] = request.weights[frozen]
    if not np.isfinite(weights).all():
        raise _diverged(request, steps, tally.loss)
    return TrainResult(
        weights=weights,
        num_samples=len(samples),
        loss=tally.loss,
        accuracy=tally.accuracy,
        steps=steps,
        seconds=time.monotonic() - start,
        scores=asked.scores,
        proposal=asked.proposal if ticket is None else request.live,
        held_out=None if ticket is None else ticket.metric,
    )


class _Asked:
    """What the request asks beside the training, and the answer."""

    def __init__(
        self, request: TrainRequest, *, module: nn.Module, samples: Samples, task: Task, layout: Layout
    ) -> None:
        self._request, self._question = request, request.question
        self._bench = Bench(
            module=module,
            samples=samples,
            task=task,
            layout=layout,
            batches=draw_batches(
                len(samples),
                count=0 if request.question is None else request.question.batches,
                size=request.batch_size,
                seed=request.seed,
            ),
        )
        self.scores: NDArray[np.float32] | None = None
        self.proposal: NDArray[np.bool_] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a mask is still to be proposed."""
        wants_mask = self._question is not None and self._question.form == "mask"
        return wants_mask and self.proposal is None

    def is_due(self, steps: int, *, of: int) -> bool:
        """Say whether the mask is to be proposed after so many steps, with more of them to come."""
        return self.is_open and self._question is not None and math.ceil(self._question.at * of) <= steps < of

    def before_training(self) -> None:
        if self._question is not None and self._question.form == "values" and self._question.at == 0:
            self.scores = score(self._question, self._bench)

    def after_training(self, descent: Descent) -> None:
        question = self._question
        if self.is_open:
            self.propose()
        elif question is not None and question.kind == "latent":
            self.scores = descent.hidden()
        elif question is not None and question.form == "indices":
            self.scores = self._named(question, self._growth(question)).astype(np.float32)
        elif question is not None and question.form == "values" and question.at == 1:
            self.scores = score(question, self._bench)
            if question.top:
                self.scores[~self._named(question, self.scores)] = 0

    def trial(self, *, start: float) -> TrainResult:
        """Return the losses of some masks, and the weights as they came."""
        question, bench, request = self._question, self._bench, self._request
        assert question is not None
        counts = candidate_counts(
            bench.layout,
            number=question.candidates,
            density=question.density,
            seed=question.seed,
            protect=(*question.protect, *request.frozen),
        )
        losses = candidate_losses(request.weights, live=request.live, counts=counts, bench=bench)
        return TrainResult(
            weights=request.weights,
            num_samples=len(bench.samples),
            loss=float(losses.min()),
            accuracy=None,
            steps=len(bench.batches),
            seconds=time.monotonic() - start,
            scores=losses,
        )

    def propose(self) -> NDArray[np.bool_]:
        """Swap weights; what is dropped becomes zero, and what grows is zero."""
        question, bench, live = self._question, self._bench, self._request.live
        assert question is not None
        weights = read_parameters(bench.module, bench.layout)
        protect = (*question.protect, *self._request.frozen)
        if question.kind == "magnitude":
            self.proposal = strongest(
                weights, live=live, layout=bench.layout, density=question.density, protect=protect
            )
        else:
            self.proposal = propose(
                weights,
                self._growth(question),
                live=live,
                layout=bench.layout,
                swap=question.swap,
                protect=protect,
            )
        write_parameters(bench.module, bench.layout, np.where(self.proposal, weights, np.float32(0)))
        return self.proposal

    def _named(self, question: Question, growth: NDArray[np.float32]) -> NDArray[np.bool_]:
        request, layout = self._request, self._bench.layout
        tensors = open_tensors(request, layout=layout)
        return wished(growth, live=request.live, layout=layout, share=question.swap, tensors=tensors)

    def _growth(self, question: Question) -> NDArray[np.float32]:
        if question.kind == "random":
            size = self._request.weights.size
            return np.random.default_rng(self._request.seed).random(size, np.float32)
        return score(question, self._bench)


class _Batches:
    """Which samples make up the batches, anew for each epoch."""

    def __init__(self, num_samples: int, request: TrainRequest) -> None:
        self._num_samples = num_samples
        self._size = request.batch_size
        self._shuffle = torch.Generator().manual_seed(request.seed)

    def __len__(self) -> int:
        whole, rest = divmod(self._num_samples, self._size)
        # Batch normalisation cannot take a batch of one; the sample has its turn in another epoch.
        return max(1, whole + (1 if rest > 1 else 0)) if self._size > 1 else whole

    def shuffled(self) -> list[list[int]]:
        order: list[int] = torch.randperm(self._num_samples, generator=self._shuffle).tolist()
        return [order[i * self._size : (i + 1) * self._size] for i in range(len(self))]


@dataclass(slots=True)
class _Tally:
    """Means over the samples of an epoch."""

    loss_sum: float = 0.0
    right: float | None = None
    count: int = 0

    def add(self, loss: float, accuracy: float | None, *, count: int) -> None:
        self.loss_sum += loss * count
        if accuracy is not None:
            self.right = (self.right or 0.0) + accuracy * count
        self.count += count

    @property
    def loss(self) -> float:
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float | None:
        return None if self.right is None else self.right / self.count


def _seed_everything(seed: int) -> None:
    """Seed dropout, and the generators that a dataset's augmentation may use."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _accuracy(outputs: object, targets: torch.Tensor, task: Task) -> float | None:
    if task.metric != "accuracy":
        return None
    if not isinstance(outputs, torch.Tensor):
        raise TaskError(
            f"the model returns a {type(outputs).__name__}, and accuracy needs one tensor", path=task.path
        )
    try:
        return float(find_metric("accuracy").score(outputs.detach().numpy(), targets.numpy()).mean())
    except MetricError as error:
        raise TaskError(
            f'{error} Or set another metric in the task file, such as metric = "mse".', path=task.path
        ) from error


def _diverged(request: TrainRequest, step: int, loss: float) -> TrainingDiverged:
    what = (
        f"the loss is {loss}"
        if not math.isfinite(loss)
        else f"a weight is not finite (the loss was {loss:.4g})"
    )
    return TrainingDiverged(
        f"round {request.round}, step {step}: {what}; lower learning_rate (now {request.learning_rate:g}) in "
        "the plan, or look for NaN and unscaled values in the data",
        round=request.round,
        step=step,
        loss=loss,
    )
