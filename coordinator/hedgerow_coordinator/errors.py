"""Errors of the coordinator.

CoordinatorError
├── PlanError              the user's plan.toml: file, line, table and key are attributes
│   └── SettingError       one value breaks one rule; knows the key, not yet the file
├── PruningError           weights that cannot be scored
│   └── DensityError       the asked density cannot be met on this model
├── AggregationError       an update cannot be added, or there is nothing to average
├── EstimateError          the EF21 estimate that an update is relative to cannot be read
└── StoreError             the run directory: cannot be read or written
    ├── StoreNotFound      there is no run in this directory
    ├── StoreExists        there is a run, or something else, where a new run should go
    ├── StoreMismatch      the run belongs to another plan, or to another version of Hedgerow
    ├── StoreLocked        another process coordinates this run
    └── StoreDamaged       what is on the disk is not what was written
"""

from pathlib import Path


class CoordinatorError(Exception):
    """Root of everything that this package raises on purpose."""


class PlanError(CoordinatorError):
    """A plan that cannot be used; the message is a sentence for its author.

    Attributes
    ----------
    source : str
        The file, as it was named to us; empty for a plan made in memory.
    line : int or None
        Line in the file, from 1, where it is known.
    table, key : str
        Where in the plan; empty where the fault is not in one key.
    """

    def __init__(
        self, sentence: str, *, source: str = "", line: int | None = None, table: str = "", key: str = ""
    ) -> None:
        place = f"{source}, line {line}" if source and line is not None else source
        name = " ".join(part for part in (f"[{table}]" if table else "", key) if part)
        super().__init__(": ".join(part for part in (place, " ".join((name, sentence)).strip()) if part))
        self.sentence = sentence
        self.source = source
        self.line = line
        self.table = table
        self.key = key


class SettingError(PlanError):
    """One value that breaks one rule; the loader adds file, line and table."""


class PruningError(CoordinatorError):
    """Weights that cannot be pruned.

    Attributes
    ----------
    tensor : str
        The tensor concerned; empty where it is the whole model.
    """

    def __init__(self, sentence: str, *, tensor: str = "") -> None:
        super().__init__(sentence)
        self.tensor = tensor


class DensityError(PruningError):
    """A density that this model cannot have.

    Attributes
    ----------
    density : float
        What was asked for.
    least_density : float
        The smallest density that can be met.
    """

    def __init__(self, sentence: str, *, density: float, least_density: float) -> None:
        super().__init__(sentence)
        self.density = density
        self.least_density = least_density


class AggregationError(CoordinatorError):
    """An update that cannot be added, or a mean of nothing."""


class EstimateError(CoordinatorError):
    """An update whose EF21 estimate cannot be read; its client begins anew.

    Attributes
    ----------
    client : str
        Whose estimate it is.
    detail : str
        What is wrong with which file; for the gateway, not for the client.
    """

    def __init__(self, sentence: str, *, client: str, detail: str) -> None:
        super().__init__(sentence)
        self.client = client
        self.detail = detail


class StoreError(CoordinatorError):
    """A run directory that cannot be read or written.

    Attributes
    ----------
    path : Path
        The file or directory concerned.
    """

    def __init__(self, sentence: str, *, path: Path) -> None:
        super().__init__(sentence)
        self.path = path


class StoreNotFound(StoreError):
    """There is no run in this directory."""


class StoreExists(StoreError):
    """Something is in the way of a new run."""


class StoreMismatch(StoreError):
    """The run belongs to another plan or to another version of Hedgerow."""


class StoreLocked(StoreError):
    """Another process coordinates this run.

    Attributes
    ----------
    pid : int or None
        The process that holds the lock, where it could be read.
    """

    def __init__(self, sentence: str, *, path: Path, pid: int | None) -> None:
        super().__init__(sentence, path=path)
        self.pid = pid


class StoreDamaged(StoreError):
    """What is on the disk is not what was written."""
