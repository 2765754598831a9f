"""Names of formats, separate from their meaning (q3edge.quantization.recipe): `--help` needs no numpy."""

from collections.abc import Mapping
from typing import Literal

FORMATS = ("int4-mixed", "int4", "int4-fast", "int8", "int8-dynamic")
FLOAT = "float"
CacheType = Literal["float32", "int8"]
CACHE_TYPES: tuple[CacheType, ...] = ("float32", "int8")  # of keys and values while a model runs
OtherFormat = Literal["gguf", "compressed-tensors", "gptq", "mlx"]
# Formats of other programs, which `export --to` writes.
OTHER_FORMATS: tuple[OtherFormat, ...] = ("gguf", "compressed-tensors", "gptq", "mlx")
Program = Literal["gguf", "vllm"]
# Programs for which `quantize --for` chooses the format, and the name under which `export --to` then writes it.
PROGRAMS: Mapping[Program, OtherFormat] = {"gguf": "gguf", "vllm": "compressed-tensors"}
ExpertOperators = Literal["qmoe", "plain"]
EXPERT_OPERATORS: tuple[ExpertOperators, ...] = ("qmoe", "plain")  # onnxruntime's own for experts, or an MLP for each
