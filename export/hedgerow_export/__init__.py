"""Make, check and run ONNX models."""
