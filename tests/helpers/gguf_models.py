"""GGUF files of small random checkpoints, written and read by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from tests.helpers.models import random_weights, tiny_config

Floats = NDArray[np.float32]


def own_name(name: str) -> str:
    """Name in GGUF, as the gguf package has it."""
    kinds = (gguf.MODEL_ARCH.QWEN3, gguf.MODEL_ARCH.QWEN3MOE)
    found = (gguf.get_tensor_name_map(kind, 4).get_name(name, (".weight",)) for kind in kinds)
    return next(filter(None, found))


def random_floats(seed: int = 0, **overrides: Any) -> dict[str, Floats]:
    """Weights of a random model by transformers' names."""
    config = Qwen3Config.from_dict(tiny_config(**overrides))
    return {name: tensor.float().numpy() for name, tensor in random_weights(config, seed).items()}


def write_gguf_model(
    path: Path, tensors: Mapping[str, Floats], kind: str, metadata: Mapping[str, Any] | None = None, **overrides: Any
) -> dict[str, Floats]:
    """Write a model whose matrices have one type; returns their values as the package dequantizes them.

    metadata: further keys. Tensors of all experts are stacked.
    """
    raw = tiny_config(**overrides)
    architecture = "qwen3moe" if raw["model_type"] == "qwen3_moe" else "qwen3"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(raw["num_hidden_layers"])
    writer.add_context_length(raw["max_position_embeddings"])
    writer.add_embedding_length(raw["hidden_size"])
    writer.add_feed_forward_length(raw["intermediate_size"])
    writer.add_head_count(raw["num_attention_heads"])
    writer.add_head_count_kv(raw["num_key_value_heads"])
    writer.add_key_length(raw["head_dim"])
    writer.add_value_length(raw["head_dim"])
    writer.add_rope_freq_base(raw["rope_theta"])
    writer.add_layer_norm_rms_eps(raw["rms_norm_eps"])
    if architecture == "qwen3moe":
        writer.add_expert_count(raw["num_experts"])
        writer.add_expert_used_count(raw["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(raw["moe_intermediate_size"])
    for key, value in (metadata or {}).items():
        add_value(writer, key, value)
    expected: dict[str, Floats] = {}
    stacked: dict[str, list[str]] = {}
    for name, values in tensors.items():
        if ".experts." in name:
            prefix, _, rest = name.partition(".experts.")
            layer, matrix = prefix.split(".")[2], rest.split(".")[1].removesuffix("_proj")
            stacked.setdefault(f"blk.{layer}.ffn_{matrix}_exps.weight", []).append(name)
            continue
        own = "F32" if values.ndim == 1 or name.endswith("mlp.gate.weight") else kind
        expected[name] = add_tensor(writer, own_name(name), values, own)
    for own_experts, names in stacked.items():
        found = add_tensor(writer, own_experts, np.stack([tensors[name] for name in names]), kind)
        expected |= zip(names, found, strict=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def add_tensor(writer: gguf.GGUFWriter, name: str, values: Floats, kind: str) -> Floats:
    """Add a tensor, quantized where `kind` is such a type; returns what it stands for."""
    chosen = GGMLQuantizationType[kind]
    try:
        stored = gguf.quantize(values, chosen)
    except NotImplementedError:  # of K-quants the package only reads: any bytes are blocks
        block, size = gguf.GGML_QUANT_SIZES[chosen]
        stored = random_blocks(kind, (*values.shape[:-1], values.shape[-1] // block * size), size)
    writer.add_tensor(name, stored, raw_dtype=None if kind in ("F32", "F16") else chosen)
    return np.asarray(gguf.dequantize(stored, chosen), np.float32).reshape(values.shape)


def random_blocks(kind: str, shape: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """Draw bytes in which the float16 numbers of every block are small: they lie at its begin, or at its end."""
    stored = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    blocks = stored.reshape(-1, size)
    places = {"Q2_K": (size - 4, size - 2), "Q3_K": (size - 2,), "Q6_K": (size - 2,)}.get(kind, (0, 2))
    for place in places:
        blocks[:, place : place + 2] = np.float16(0.01).reshape(1).view(np.uint8)
    return stored


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a key of the type that Python's value has; integers are unsigned."""
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def read_gguf_model(path: Path) -> tuple[dict[str, Floats], dict[str, Any], dict[str, str]]:
    """Read a file by the package: values by GGUF's names, metadata, and the types of the tensors."""
    reader = gguf.GGUFReader(path)
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
    values = {
        tensor.name: np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(
            shapes[tensor.name]
        )
        for tensor in reader.tensors
    }
    metadata = {key: found.contents() for key, found in reader.fields.items()}
    return values, metadata, {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
