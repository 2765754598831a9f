"""Copy of an ONNX model whose block-quantized products read float32 activations in place of int8 ones.

The session key mlas.qnbit.force_fp32 is no substitute: onnxruntime 1.32 applies it only to 4-bit groups of 32, and
ignores it for 8-bit weights and for 4-bit groups of 16, 64, 128 and 256.
"""

from __future__ import annotations

# AttributeProto (onnx.proto): name is field 1, i is field 3; the value is the byte after the tag of i (0x18).
_ACCURACY_LEVEL = b"\x0a\x0eaccuracy_level\x18"
_INT8_ACTIVATIONS, _FLOAT_ACTIVATIONS = b"\x04", b"\x00"


def with_exact_activations(model: bytes) -> bytes:
    """Copy of a serialized ModelProto with every accuracy_level 4 set to 0; equal if there is none."""
    return model.replace(_ACCURACY_LEVEL + _INT8_ACTIVATIONS, _ACCURACY_LEVEL + _FLOAT_ACTIVATIONS)
