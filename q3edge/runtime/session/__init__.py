"""One artifact loaded into onnxruntime: its files checked, its weights mapped, its KV cache, a forward pass."""
