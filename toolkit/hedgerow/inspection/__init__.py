"""What a file or a run directory holds."""

from hedgerow.inspection.description import Description, Fact, TensorRow
from hedgerow.inspection.recognition import inspect_path

__all__ = ["Description", "Fact", "TensorRow", "inspect_path"]
