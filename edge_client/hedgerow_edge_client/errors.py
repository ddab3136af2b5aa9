"""Errors of the edge client.

::

    EdgeClientError
    ├── TaskError               the user's task file: cannot be read, or gives what cannot be used  (user)
    │   └── EmptyData           there is nothing to train on  (user)
    ├── TrainingDiverged        the loss or a weight is no finite number any more  (user: the plan, the data)
    ├── TrainingCancelled       somebody asked for the training to stop  (nobody's fault)
    ├── TrainerFailed           the trainer answered that something went wrong
    │   └── TrainerTimeout      the trainer did not answer in time
    ├── TrainerCrashed          the trainer's process died  (torch, memory, the device)
    ├── FrameFault              bytes on the pipe to the trainer that are no frame  (ours)
    ├── StateError              the state directory cannot be read, written or had for ourselves
    ├── NameTaken               another client of the same name is connected  (user)
    └── ReplicaError            a step that leads to no model  (peer)
"""

from __future__ import annotations

from pathlib import Path


class EdgeClientError(Exception):
    """Root of every error raised by `hedgerow_edge_client`."""


class TaskError(EdgeClientError):
    """A task file cannot be used; the message is a sentence for its author.

    Attributes
    ----------
    path : Path or None
        The task file.
    line : int or None
        Line in the file, from 1, where it is known.
    """

    def __init__(self, sentence: str, *, path: Path | None = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(place + sentence)
        self.path = path
        self.line = line


class EmptyData(TaskError):
    """The task's data has no samples for this client."""


class TrainingDiverged(EdgeClientError):
    """Training left the finite numbers.

    Attributes
    ----------
    round, step : int or None
        The round, and the step in it, from 1.
    loss : float or None
        The loss of that step.
    """

    def __init__(
        self, sentence: str, *, round: int | None = None, step: int | None = None, loss: float | None = None
    ) -> None:
        super().__init__(sentence)
        self.round = round
        self.step = step
        self.loss = loss


class TrainingCancelled(EdgeClientError):
    """Training was stopped from outside; there is no result."""


class TrainerFailed(EdgeClientError):
    """The trainer lives, but could not do what it was asked.

    Attributes
    ----------
    kind : str
        Name of what went wrong there, such as ``MemoryError`` or ``TemplateError``.
    """

    def __init__(self, sentence: str, *, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class TrainerTimeout(TrainerFailed):
    """The trainer did not answer in time and was stopped."""


class TrainerCrashed(EdgeClientError):
    """The trainer's process ended by itself.

    Attributes
    ----------
    signal : str or None
        Name of the signal that ended it, such as ``SIGILL``; None when it was none.
    """

    def __init__(self, sentence: str, *, signal: str | None = None) -> None:
        super().__init__(sentence)
        self.signal = signal


class FrameFault(EdgeClientError):
    """Bytes on the pipe are no frame; the other end is broken, so the pipe is of no more use."""


class StateError(EdgeClientError):
    """The state directory cannot be used.

    Attributes
    ----------
    path : Path
        The file or directory concerned.
    """

    def __init__(self, sentence: str, *, path: Path) -> None:
        super().__init__(sentence)
        self.path = path


class NameTaken(EdgeClientError):
    """Another client of the same name is connected to the broker."""


class ReplicaError(EdgeClientError):
    """A step that leads to no model.

    Attributes
    ----------
    kind : str
        Kind of the blob that holds the step.
    """

    def __init__(self, sentence: str, *, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind
