"""Make, check and run ONNX models."""

from hedgerow_export.agreement import Agreement, Limits, compare_outputs, is_as_good
from hedgerow_export.artifact import export_model, fill_checked, write_atomically
from hedgerow_export.calibration import calibration_form, count_activations, is_of_form
from hedgerow_export.costs import Costs, count_costs
from hedgerow_export.description import describe_model
from hedgerow_export.errors import (
    ChannelError,
    ExportError,
    MetadataError,
    MetricError,
    MissingPackageError,
    ModelError,
    QuantizationError,
    TemplateError,
    VerificationError,
)
from hedgerow_export.evaluation import Evaluation, evaluate
from hedgerow_export.filling import fill_template, template_layout, template_parameters
from hedgerow_export.groups import ChannelGroup, ChannelGroups, FrozenChannels, Member, channel_groups
from hedgerow_export.inference import Answer, DeviceModel
from hedgerow_export.metrics import METRICS, Metric, accuracy, find_metric
from hedgerow_export.model_proto import read_model
from hedgerow_export.product import QUANTIZE, Measures, Product, Recipe, Sample, make_product, zip_bytes
from hedgerow_export.quantizing import Int8Model, quantize_int8
from hedgerow_export.ranges import ActivationRanges, merge_ranges
from hedgerow_export.runner import InputSpec, Runner
from hedgerow_export.sandbox import Sandbox, SandboxError, check_foreign
from hedgerow_export.shrink import compact_model, empty_channels, shrink_model
from hedgerow_export.sparse_form import make_sparse
from hedgerow_export.targets import TARGETS, Target, find_target
from hedgerow_export.template import make_template
from hedgerow_export.timing import Latency, measure_latency
from hedgerow_export.verification import Verification, sample_inputs, verify_model

__all__ = [
    "METRICS",
    "QUANTIZE",
    "TARGETS",
    "ActivationRanges",
    "Agreement",
    "Answer",
    "ChannelError",
    "ChannelGroup",
    "ChannelGroups",
    "Costs",
    "DeviceModel",
    "Evaluation",
    "ExportError",
    "FrozenChannels",
    "InputSpec",
    "Int8Model",
    "Latency",
    "Limits",
    "Measures",
    "Member",
    "MetadataError",
    "Metric",
    "MetricError",
    "MissingPackageError",
    "ModelError",
    "Product",
    "QuantizationError",
    "Recipe",
    "Runner",
    "Sample",
    "Sandbox",
    "SandboxError",
    "Target",
    "TemplateError",
    "Verification",
    "VerificationError",
    "accuracy",
    "calibration_form",
    "channel_groups",
    "check_foreign",
    "compact_model",
    "compare_outputs",
    "count_activations",
    "count_costs",
    "describe_model",
    "empty_channels",
    "evaluate",
    "export_model",
    "fill_checked",
    "fill_template",
    "find_metric",
    "find_target",
    "is_as_good",
    "is_of_form",
    "make_product",
    "make_sparse",
    "make_template",
    "measure_latency",
    "merge_ranges",
    "quantize_int8",
    "read_model",
    "sample_inputs",
    "shrink_model",
    "template_layout",
    "template_parameters",
    "verify_model",
    "write_atomically",
    "zip_bytes",
]
