"""Weights -> files that other programs load: ONNX graphs, onnxruntime-genai, compressed-tensors checkpoints."""
