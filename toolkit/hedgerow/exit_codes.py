"""What the exit code of `hedgerow` says, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from hedgerow.errors import HedgerowError, UsageError
from hedgerow_codecs import CodecError
from hedgerow_coordinator.errors import CoordinatorError, DensityError, PlanError, StoreError
from hedgerow_devices import DeviceError
from hedgerow_edge_client.errors import EdgeClientError, StateError, TaskError
from hedgerow_export import ExportError, MissingPackageError, ModelError
from hedgerow_transport import (
    BrokerSettingError,
    BrokerUrlError,
    CredentialsError,
    TopicError,
    TransportError,
)


class ExitCode(IntEnum):
    """Exit codes, the same for every command."""

    DONE = 0
    BUG = 1
    USAGE = 2
    BROKER = 3
    TASK = 4
    RUN_FAILED = 5
    STORAGE = 6
    INTERRUPTED = 130


MEANINGS = (
    "exit codes: 0 done, 2 the call, the plan or a model file is wrong, 3 the broker, 4 the task file, "
    "5 the run failed, 6 a folder or the disk, 130 stopped by a signal, 1 a bug in Hedgerow"
)


# The first class that fits decides, so the special ones stand before their roots.
_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (PlanError, ExitCode.USAGE),
    (DensityError, ExitCode.USAGE),
    (BrokerUrlError, ExitCode.USAGE),
    (BrokerSettingError, ExitCode.USAGE),
    (CredentialsError, ExitCode.USAGE),
    (TopicError, ExitCode.USAGE),
    (ModelError, ExitCode.USAGE),
    (MissingPackageError, ExitCode.USAGE),
    (TransportError, ExitCode.BROKER),
    (TaskError, ExitCode.TASK),
    (StoreError, ExitCode.STORAGE),
    (StateError, ExitCode.STORAGE),
    (CoordinatorError, ExitCode.RUN_FAILED),
    (EdgeClientError, ExitCode.RUN_FAILED),
    (ExportError, ExitCode.RUN_FAILED),
    (CodecError, ExitCode.RUN_FAILED),
    (DeviceError, ExitCode.RUN_FAILED),
    (HedgerowError, ExitCode.RUN_FAILED),
    # What no package has foreseen: a full disk, a folder that cannot be written.
    (OSError, ExitCode.STORAGE),
)

EXPECTED_ERRORS = tuple(error for error, _ in _CODES)


def code_of(error: Exception) -> ExitCode:
    """Return the exit code for an error that a person can do something about."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.BUG)
