"""QDIR, the quantized checkpoint: safetensors in the layout of the compressed-tensors library.

layout: one matrix <-> its stored tensors; settings: schemes <-> `quantization_config`; writer and reader: the folder.
Reasons for the layout: docs/decisions/2026-11-23-quantized-checkpoint-layout.md.
"""

from q3edge.checkpoint.compressed_tensors.kv_scales import read_kv_scales, write_kv_scales
from q3edge.checkpoint.compressed_tensors.reader import COMPRESSED_TENSORS, QuantizedCheckpoint
from q3edge.checkpoint.compressed_tensors.writer import QuantizedWriter

__all__ = ["COMPRESSED_TENSORS", "QuantizedCheckpoint", "QuantizedWriter", "read_kv_scales", "write_kv_scales"]
