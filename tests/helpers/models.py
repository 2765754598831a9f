"""Small random checkpoints and an in-memory source of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

TINY: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 320, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": True, "attention_bias": False,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16",
}  # fmt: skip


def tiny_config(**overrides: Any) -> dict[str, Any]:
    """Configuration (config.json) of a two-layer model; `overrides` replace fields."""
    return {**TINY, **overrides}


MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip


def random_weights(config: Qwen3Config, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random bfloat16 tensors, large enough that every part of the model matters to the logits."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator)
        values = 1 + 0.2 * values if len(shape) == 1 else values * 1.5 * shape[-1] ** -0.5
        weights[name] = values.to(torch.bfloat16)
    return weights


def write_checkpoint(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a loadable random checkpoint (config.json + model.safetensors, no tokenizer)."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = tiny_config(**overrides)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(random_weights(Qwen3Config.from_dict(raw), seed), folder / "model.safetensors", {"format": "pt"})
    return folder


def edit_config(folder: Path, **fields: object) -> None:
    """Replace fields of a checkpoint's config.json."""
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **fields}))


def fused_experts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, the matrices of all experts in one as transformers 5 holds them: [E, 2 I, H] and [E, H, I]."""
    fused = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for prefix in {name.partition(".experts.")[0] for name in tensors if ".experts." in name}:
        experts = range(sum(name.startswith(f"{prefix}.experts.") for name in tensors) // 3)

        def part(number: int, matrix: str, prefix: str = prefix) -> torch.Tensor:
            return tensors[f"{prefix}.experts.{number}.{matrix}_proj.weight"]

        gate_up = [torch.cat([part(number, "gate"), part(number, "up")]) for number in experts]
        fused[f"{prefix}.experts.gate_up_proj"] = torch.stack(gate_up)
        fused[f"{prefix}.experts.down_proj"] = torch.stack([part(number, "down") for number in experts])
    return fused


class InMemoryWeights:
    """A WeightSource over a dict of float32 arrays and quantized tensors."""

    def __init__(self, config: Qwen3Config, tensors: Mapping[str, NDArray[np.float32] | QuantizedTensor]) -> None:
        self.config, self.tensors = config, dict(tensors)

    @classmethod
    def random(cls, seed: int = 0, **overrides: Any) -> InMemoryWeights:
        """The weights that `write_checkpoint` writes for the same arguments, as float32."""
        config = Qwen3Config.from_dict(tiny_config(**overrides))
        return cls(config, {name: t.float().numpy() for name, t in random_weights(config, seed).items()})

    def scheme(self, name: str) -> Scheme | None:
        tensor = self.tensors[name]
        return tensor.scheme if isinstance(tensor, QuantizedTensor) else None

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        tensor = self.tensors[name]
        values = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
        return values if rows is None else values[rows]

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        tensor = self.tensors[name]
        assert isinstance(tensor, QuantizedTensor)
        return tensor.rows(rows or slice(None))
