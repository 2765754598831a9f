"""A Qwen3 model folder on disk, or in the hub's cache: headers checked when opened, weights read on demand.

opening: the one door, with the list of formats; float_checkpoint, compressed_tensors, unsupported: a format each;
safetensors_folder: what the readers of safetensors share; safetensors: the files themselves.
"""

from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.opening import open_float_model, open_model, open_quantized_model
from q3edge.checkpoint.source import ModelFolder, WeightSource

__all__ = ["Checkpoint", "ModelFolder", "WeightSource", "open_float_model", "open_model", "open_quantized_model"]
