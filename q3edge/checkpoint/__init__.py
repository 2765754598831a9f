"""Checkpoints: Qwen3 model folders on disk or in the hub's cache, checked when opened, weights read on demand.

opening: opens any model, with the list of formats; float_checkpoint, compressed_tensors, unsupported: a format each;
tensor_folder: common base of the readers of safetensors; safetensors: the files themselves.
"""

from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.opening import open_float_model, open_model, open_quantized_model
from q3edge.checkpoint.source import ModelFolder, WeightSource

__all__ = ["Checkpoint", "ModelFolder", "WeightSource", "open_float_model", "open_model", "open_quantized_model"]
