"""How far an ONNX artifact is from the float model, with confidence intervals, and whether its answers are right."""
