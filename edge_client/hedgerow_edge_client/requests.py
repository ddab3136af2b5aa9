"""What goes to the trainer and what comes back: values, and their form on the pipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_edge_client.personal import PersonalRule
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.shaping import Shaping


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainRequest:
    """Train once on this device's data.

    Parameters
    ----------
    round
        The round the update is for, from 0.
    seed
        Of shuffling and dropout, 0 to 2**64 - 1 inclusive.
    epochs
        Passes over the data, at least 1.
    batch_size
        Samples in a step, at least 1.
    learning_rate
        Above 0.
    momentum
        0 to 1, 1 excluded.
    weight_decay
        At least 0; L2, added to the gradient.
    proximal_mu
        FedProx's mu (Li 2020, eq. 2), at least 0; 0 is plain FedAvg.
    max_seconds
        Training ends after the step that passes this time; 0 is no limit.
    weights
        Flat float32 vector ``(num_parameters,)`` to start from.
    live
        Boolean vector ``(num_parameters,)``, what is trained. The others keep their values: 0 where they are
        pruned, unless a proposal grows them.
    question
        What is asked besides; None for nothing.
    power
        Powerpropagation's alpha (Schwarz 2021), at least 1; 1 is plain descent.
    biased
        Whether tensors with dead weights are trained by FIARSE's biased gradient; see `training.train`.
    shaping
        How training is bent towards a sparse model.
    frozen
        Names of the tensors that keep their values.
    personal
        How the device thins its own model before it trains; None where it does not.
    width
        Share of its channels that a model cut down by width has; outputs of layers that are cut are divided
        by it in training (HeteroFL's scaler). 1 for a whole model.
    mask_labels
        Whether logits of labels that the device has not are zero in its loss.
    sampled
        The seed of weights that stay as they were drawn; `weights` are then the probabilities that they are
        there, which are trained, and the result's are a mask of 0 and 1 (FedPM). None for weights.

    Raises
    ------
    ValueError
        A number out of its range, or vectors of the wrong shape or type.
    """

    round: int
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    max_seconds: float = 0.0
    weights: NDArray[np.float32]
    live: NDArray[np.bool_]
    question: Question | None = None
    power: float = 1.0
    biased: bool = False
    shaping: Shaping = Shaping()  # noqa: RUF009 -- a frozen value
    frozen: tuple[str, ...] = ()
    personal: PersonalRule | None = None
    width: float = 1.0
    mask_labels: bool = False
    sampled: int | None = None

    def __post_init__(self) -> None:
        if self.round < 0:
            raise ValueError(f"round must be at least 0, got {self.round}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not (0 < self.learning_rate < math.inf):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        for name in ("weight_decay", "proximal_mu", "max_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 1 <= self.power <= 8:
            raise ValueError(f"power must be from 1 to 8, got {self.power}")
        if not 0 < self.width <= 1:
            raise ValueError(f"width must be above 0 and at most 1, got {self.width}")
        _check_vector(self.weights, "weights", np.float32)
        _check_vector(self.live, "live", np.bool_)
        if self.weights.shape != self.live.shape:
            raise ValueError(f"weights and live differ in length, {self.weights.size} and {self.live.size}")

    def to_wire(self) -> dict[str, Any]:
        """Return a map of numbers and bytes."""
        wire = {field.name: getattr(self, field.name) for field in fields(self)}
        wire["weights"] = self.weights.astype("<f4", copy=False).tobytes()
        wire["live"] = np.packbits(self.live).tobytes()
        wire["question"] = None if self.question is None else self.question.to_plain()
        wire["shaping"] = self.shaping.to_plain()
        wire["frozen"] = list(self.frozen)
        wire["personal"] = None if self.personal is None else self.personal.to_plain()
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> TrainRequest:
        """Read what `to_wire` made; raises ValueError, TypeError or KeyError for anything else."""
        weights = np.frombuffer(wire["weights"], "<f4").astype(np.float32)
        bits = np.frombuffer(wire["live"], np.uint8)
        if bits.size != (weights.size + 7) // 8:
            raise ValueError(f"live has {bits.size} bytes for {weights.size} weights")
        live = np.unpackbits(bits, count=weights.size).astype(np.bool_)
        question = Question.read(wire["question"] or {})
        made = {
            "weights": weights,
            "live": live,
            "question": question,
            "shaping": Shaping.read(wire["shaping"]),
            "frozen": tuple(str(name) for name in wire["frozen"]),
            "personal": None if wire["personal"] is None else PersonalRule.from_plain(wire["personal"]),
        }
        return cls(**{**wire, **made})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """What one training came to.

    Parameters
    ----------
    weights
        Flat float32 vector ``(num_parameters,)``, running statistics included.
    num_samples
        Samples of this device.
    loss
        Mean over the samples of the last epoch's batches, each measured before its own step.
    accuracy
        The same for the share of right answers, 0 to 1; None when the task's metric is another one.
    steps
        Gradient steps made, or batches seen in a trial.
    seconds
        Time taken, scores included.
    scores
        Flat float32 vector ``(num_parameters,)`` where values were asked for; where indices were, with 1 for
        each that is named; in a trial the loss of each mask, ``(number of masks,)``; else None.
    proposal
        Boolean vector ``(num_parameters,)``, the mask that is proposed where one was asked for, or that the
        device now has of its own; else None.
    held_out
        The task's metric on data that is not trained on, of the device's model when the round began; None
        where that is not measured.

    Raises
    ------
    ValueError
        Weights of the wrong shape or type, or fewer than one sample or step.
    """

    weights: NDArray[np.float32]
    num_samples: int
    loss: float
    accuracy: float | None
    steps: int
    seconds: float
    scores: NDArray[np.float32] | None = None
    proposal: NDArray[np.bool_] | None = None
    held_out: float | None = None

    def __post_init__(self) -> None:
        _check_vector(self.weights, "weights", np.float32)
        if self.scores is not None:
            _check_vector(self.scores, "scores", np.float32)
        if self.proposal is not None:
            _check_vector(self.proposal, "proposal", np.bool_)
        if self.num_samples < 1 or self.steps < 1:
            raise ValueError(f"a result has samples and steps, got {self.num_samples} and {self.steps}")

    def to_wire(self) -> dict[str, Any]:
        """Return a map of numbers and bytes."""
        wire = {field.name: getattr(self, field.name) for field in fields(self)}
        wire["weights"] = self.weights.astype("<f4", copy=False).tobytes()
        if self.scores is not None:
            wire["scores"] = self.scores.astype("<f4", copy=False).tobytes()
        if self.proposal is not None:
            wire["proposal"] = np.packbits(self.proposal).tobytes()
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> TrainResult:
        """Read what `to_wire` made; raises ValueError, TypeError or KeyError for anything else."""
        weights = np.frombuffer(wire["weights"], "<f4").astype(np.float32)
        scores, proposal = wire["scores"], wire["proposal"]
        if scores is not None:
            scores = np.frombuffer(scores, "<f4").astype(np.float32)
        if proposal is not None:
            bits = np.frombuffer(proposal, np.uint8)
            if bits.size != (weights.size + 7) // 8:
                raise ValueError(f"a proposal of {bits.size} bytes for {weights.size} weights")
            proposal = np.unpackbits(bits, count=weights.size).astype(np.bool_)
        return cls(**{**wire, "weights": weights, "scores": scores, "proposal": proposal})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands.

    Parameters
    ----------
    epoch, epochs
        The epoch under way, from 1, and how many there will be.
    batch, batches
        The batch of the epoch that is just done, from 1, and how many there are.
    loss
        Of that batch.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float


def _check_vector(vector: NDArray[Any], name: str, kind: type) -> None:
    if vector.ndim != 1 or vector.dtype != kind:
        raise ValueError(f"{name} must be a flat {kind.__name__} vector, got {vector.dtype} {vector.shape}")
