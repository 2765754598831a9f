"""`Qwen3Config`: a checkpoint's config.json, read strictly, with every check on a field's type and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from q3edge.architecture.rope import RopeConfig
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object

SUPPORTED_MODEL_TYPES = ("qwen3", "qwen3_moe")
CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Routing of a mixture-of-experts model (Qwen3MoeForCausalLM)."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Qwen3Config:
    """The fields of config.json that decide the computation; names as in transformers' Qwen3Config."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope: RopeConfig
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    moe: MoeConfig | None

    @classmethod
    def load(cls, folder: str | Path) -> Qwen3Config:
        """Read folder/config.json; InputError names the file, the field and the value."""
        path = Path(folder) / CONFIG_FILE
        raw = read_json_object(path)
        return cls.from_dict(raw, str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = CONFIG_FILE) -> Qwen3Config:
        """Check and convert the parsed JSON object; `source` names it in errors."""
        fields = _Fields(raw, source)
        model_type = fields.text("model_type")
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise fields.error("model_type", f"expected one of {', '.join(SUPPORTED_MODEL_TYPES)}")
        _refuse_unsupported(fields)
        hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
        kv_heads = fields.positive("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise fields.error("num_key_value_heads", f"expected a divisor of num_attention_heads = {heads}")
        head_dim = fields.positive("head_dim", default=hidden // heads)
        if head_dim % 2:
            raise fields.error("head_dim", "expected an even number (rotary embedding turns pairs)")
        max_positions = fields.positive("max_position_embeddings")
        vocab = fields.positive("vocab_size")
        return cls(
            model_type=model_type,
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=fields.positive("intermediate_size"),
            num_hidden_layers=fields.positive("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=fields.number("rms_norm_eps", default=1e-6),
            max_position_embeddings=max_positions,
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
            rope=RopeConfig.from_config(raw, source),
            bos_token_id=fields.token("bos_token_id", vocab),
            eos_token_ids=fields.tokens("eos_token_id", vocab),
            pad_token_id=fields.token("pad_token_id", vocab),
            moe=_read_moe(fields) if model_type == "qwen3_moe" else None,
        )

    def is_moe_layer(self, layer: int) -> bool:
        """Tell whether decoder layer `layer` has experts in place of a dense MLP (rule of Qwen3MoeDecoderLayer)."""
        return (
            self.moe is not None
            and layer not in self.moe.mlp_only_layers
            and (layer + 1) % self.moe.decoder_sparse_step == 0
        )


def _refuse_unsupported(fields: _Fields) -> None:
    if fields.text("hidden_act", default="silu") != "silu":
        raise fields.error("hidden_act", "expected 'silu', the activation of Qwen3")
    if fields.boolean("attention_bias", default=False):
        raise fields.error("attention_bias", "expected false; no Qwen3 release has biases in attention")
    if fields.boolean("use_sliding_window", default=False):
        raise fields.error("use_sliding_window", "expected false; sliding windows are not supported")


def _read_moe(fields: _Fields) -> MoeConfig:
    experts, top_k = fields.positive("num_experts"), fields.positive("num_experts_per_tok")
    if top_k > experts:
        raise fields.error("num_experts_per_tok", f"expected at most num_experts = {experts}")
    only = fields.raw.get("mlp_only_layers") or []
    if not isinstance(only, list) or not all(_is_int(layer) for layer in only):
        raise fields.error("mlp_only_layers", "expected a list of layer numbers")
    return MoeConfig(
        num_experts=experts,
        num_experts_per_tok=top_k,
        moe_intermediate_size=fields.positive("moe_intermediate_size"),
        norm_topk_prob=fields.boolean("norm_topk_prob", default=False),
        decoder_sparse_step=fields.positive("decoder_sparse_step", default=1),
        mlp_only_layers=tuple(only),
    )


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


class _Fields:
    """Typed access to the JSON object; every error names source, field and value."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    def error(self, field: str, expected: str) -> InputError:
        return InputError(f"{self.source}: {field} = {self.raw.get(field)!r}: {expected}")

    def positive(self, field: str, default: int | None = None) -> int:
        value = self.raw.get(field)
        if value is None and default is not None:
            return default
        if not _is_int(value) or value <= 0 or value > 2**31:
            raise self.error(field, "expected a positive integer")
        return value

    def number(self, field: str, default: float) -> float:
        value = self.raw.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise self.error(field, "expected a number between 0 and 1")
        return float(value)

    def boolean(self, field: str, default: bool) -> bool:
        value = self.raw.get(field, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, "expected true or false")
        return value

    def text(self, field: str, default: str | None = None) -> str:
        value = self.raw.get(field, default)
        if not isinstance(value, str):
            raise self.error(field, "expected a string")
        return value

    def tokens(self, field: str, vocab: int) -> tuple[int, ...]:
        value = self.raw.get(field)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(_is_int(i) and 0 <= i < vocab for i in ids):
            raise self.error(field, f"expected token ids between 0 and vocab_size - 1 = {vocab - 1}")
        return tuple(ids)

    def token(self, field: str, vocab: int) -> int | None:
        ids = self.tokens(field, vocab)
        if len(ids) > 1:
            raise self.error(field, "expected one token id")
        return ids[0] if ids else None
