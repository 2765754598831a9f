"""Sessions whose block-quantized products read float32 activations in place of int8 ones.

The session key mlas.qnbit.force_fp32 is no substitute: onnxruntime 1.32 applies it only to 4-bit groups of 32, and
ignores it for 8-bit weights, for 4-bit groups of 16, 64, 128 and 256, and for experts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# AttributeProto (onnx.proto): name is field 1, i is field 3; the value is the byte after the tag of i (0x18).
_ACCURACY_LEVEL = b"\x0a\x0eaccuracy_level\x18"
# The kernel of QMoE reads it when a session is made. Experts of 8 bits have no other switch: they round at any level.
_EXPERTS_VARIABLE, _EXPERTS_FLOAT = "ORT_QMOE_CPU_QNBIT_GEMM", "fp32"
_INT8_ACTIVATIONS, _FLOAT_ACTIVATIONS = b"\x04", b"\x00"


def with_exact_activations(model: bytes) -> bytes:
    """Copy of a serialized ModelProto with every accuracy_level 4 set to 0; equal if there is none."""
    return model.replace(_ACCURACY_LEVEL + _INT8_ACTIVATIONS, _ACCURACY_LEVEL + _FLOAT_ACTIVATIONS)


@contextmanager
def exact_experts() -> Iterator[None]:
    """While a session is made: its experts of 4 and 8 bits will read float32 activations; those of 2 bits never do.

    It is a variable of this process: no other session should be made at the same time.
    """
    before = os.environ.get(_EXPERTS_VARIABLE)
    os.environ[_EXPERTS_VARIABLE] = _EXPERTS_FLOAT
    try:
        yield
    finally:
        if before is None:
            del os.environ[_EXPERTS_VARIABLE]
        else:
            os.environ[_EXPERTS_VARIABLE] = before
