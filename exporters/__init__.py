"""Exporters: from weights to the files of other programs (ONNX graph, onnxruntime-genai's settings)."""
