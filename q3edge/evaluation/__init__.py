"""Evaluation of an ONNX artifact: its distance from the float model, with confidence intervals, and its accuracy."""
