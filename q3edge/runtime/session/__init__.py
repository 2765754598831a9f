"""An artifact in onnxruntime: checks of its files, mapping of its weights, KV cache, forward pass."""
