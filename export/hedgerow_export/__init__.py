"""Make, check and run ONNX models."""

from hedgerow_export.artifact import export_model
from hedgerow_export.description import describe_model
from hedgerow_export.errors import (
    ChannelError,
    ExportError,
    MetadataError,
    MetricError,
    MissingPackageError,
    ModelError,
    TemplateError,
    VerificationError,
)
from hedgerow_export.evaluation import Evaluation, evaluate
from hedgerow_export.filling import fill_template, template_layout, template_parameters
from hedgerow_export.groups import ChannelGroup, ChannelGroups, FrozenChannels, Member, channel_groups
from hedgerow_export.metrics import METRICS, Metric, accuracy, find_metric
from hedgerow_export.model_proto import read_model
from hedgerow_export.runner import InputSpec, Runner
from hedgerow_export.shrink import compact_model, empty_channels, shrink_model
from hedgerow_export.template import make_template
from hedgerow_export.verification import Verification, verify_model

__all__ = [
    "METRICS",
    "ChannelError",
    "ChannelGroup",
    "ChannelGroups",
    "Evaluation",
    "ExportError",
    "FrozenChannels",
    "InputSpec",
    "Member",
    "MetadataError",
    "Metric",
    "MetricError",
    "MissingPackageError",
    "ModelError",
    "Runner",
    "TemplateError",
    "Verification",
    "VerificationError",
    "accuracy",
    "channel_groups",
    "compact_model",
    "describe_model",
    "empty_channels",
    "evaluate",
    "export_model",
    "fill_template",
    "find_metric",
    "make_template",
    "read_model",
    "shrink_model",
    "template_layout",
    "template_parameters",
    "verify_model",
]
