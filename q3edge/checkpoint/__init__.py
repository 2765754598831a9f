"""A Qwen3 model folder on disk, or in the hub's cache: headers checked when opened, weights read on demand.

model: which tensors a model must have; shards: the files as one; safetensors_file, safetensors_writer: the format.
"""

from q3edge.checkpoint.float_checkpoint import Checkpoint, Expected, ModelFolder, check_tensors

__all__ = ["Checkpoint", "Expected", "ModelFolder", "check_tensors"]
