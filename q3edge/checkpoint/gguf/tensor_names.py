"""Names of tensors in GGUF <-> transformers' names. No rows change places: Qwen3 turns halves in both (NeoX)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from q3edge.architecture.layer import layer_prefix
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, LM_HEAD

_FIXED: Final[Mapping[str, str]] = {
    EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", LM_HEAD: "output.weight",
}  # fmt: skip
_PARTS: Final[Mapping[str, str]] = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}  # fmt: skip
_MODEL_PARTS = {own: part for part, own in _PARTS.items()}
_MODEL_FIXED = {own: name for name, own in _FIXED.items()}
_BLOCK = re.compile(r"blk\.(\d{1,5})\.(\w+)\.weight")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_EXPERT = re.compile(r"mlp\.experts\.(\d+)\.")
_EXPERTS = ".mlp.experts."


def model_name(own: str) -> str:
    """Find transformers' name of a tensor of GGUF; its own where it is none of Qwen3's.

    All experts' gate matrices of layer 3 are model.layers.3.mlp.experts.gate_proj.weight.
    """
    if found := _BLOCK.fullmatch(own):
        part = _MODEL_PARTS.get(found[2])
        return own if part is None else f"{layer_prefix(int(found[1]))}{part}.weight"
    return _MODEL_FIXED.get(own, own)


def gguf_name(name: str) -> str:
    """Name in GGUF of a tensor by transformers' name; that of all experts for an expert's."""
    if name in _FIXED:
        return _FIXED[name]
    found = _LAYER.fullmatch(name)
    if found is None:
        raise ValueError(f"{name}: no tensor of a Qwen3")
    return f"blk.{found[1]}.{_PARTS[_EXPERT.sub('mlp.experts.', found[2])]}.weight"


def parts_of(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Matrices of each expert, name -> shape, in a tensor [E, N, K] of all; empty for any other tensor."""
    if _EXPERTS not in name or len(shape) != 3:
        return {}
    prefix, _, matrix = name.partition(_EXPERTS)
    return {f"{prefix}{_EXPERTS}{expert}.{matrix}": shape[1:] for expert in range(shape[0])}
