"""Errors of this package.

::

    ExportError                     anything that goes wrong in this package
    ├── MissingPackageError         onnx, onnxruntime, onnxscript or torch is not installed  (user)
    ├── TemplateError               a module, a template and a layout that do not go together  (user)
    ├── ModelError                  bytes that are not a model we can use, or inputs of the wrong shape
    ├── MetadataError               an entry that cannot be written into a model  (caller)
    ├── ChannelError                masks of channels that do not fit a model's channel groups  (caller)
    ├── QuantizationError           a model that cannot be quantised without losing its outputs  (user)
    ├── MetricError                 an unknown metric, or targets that do not fit the outputs  (user)
    └── VerificationError           a model that does not compute what it should  (ours)

Every message is one sentence for a person, or two: what happened to what, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgerow_export.verification import Verification


class ExportError(Exception):
    """Root of every error raised by `hedgerow_export`."""


class MissingPackageError(ExportError):
    """An optional package is not installed.

    Attributes
    ----------
    package : str
        Its import name.
    """

    def __init__(self, message: str, *, package: str) -> None:
        super().__init__(message)
        self.package = package


class TemplateError(ExportError):
    """A module cannot become a template, or a template and a layout do not go together.

    Attributes
    ----------
    tensor : str or None
        The tensor at fault, where there is one.
    module : str or None
        The submodule at fault, where it is known.
    """

    def __init__(self, message: str, *, tensor: str | None = None, module: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor
        self.module = module


class ModelError(ExportError):
    """Bytes are not a model that can be used here, or inputs do not fit a model."""


class MetadataError(ExportError):
    """An entry cannot be written into a model.

    Attributes
    ----------
    key : str
        The key at fault.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class ChannelError(ExportError):
    """Masks of channels do not fit a model's channel groups.

    Attributes
    ----------
    group : str or None
        The group at fault, where there is one.
    """

    def __init__(self, message: str, *, group: str | None = None) -> None:
        super().__init__(message)
        self.group = group


class QuantizationError(ExportError):
    """A model cannot be quantised, or its outputs suffer too much."""


class MetricError(ExportError):
    """A metric is unknown, or the targets do not fit the model's outputs."""


class VerificationError(ExportError):
    """A model does not compute what it should.

    Attributes
    ----------
    verification : Verification or None
        What was measured, where the model ran at all.
    """

    def __init__(self, message: str, *, verification: Verification | None = None) -> None:
        super().__init__(message)
        self.verification = verification
