"""`Qwen3Config`: a checkpoint's config.json, read strictly, with every check on a field's type and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from q3edge.architecture.fields import Fields, is_int, shown
from q3edge.architecture.rope import MAX_POSITIONS, RopeConfig
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object

SUPPORTED_MODEL_TYPES = ("qwen3", "qwen3_moe")
CONFIG_FILE = "config.json"
EMBEDDING_ARCHITECTURE = "Qwen3Model"  # transformers' class without a head, which embedding models are run with
_HYBRID = "layers of linear attention (gated delta rule) beside full ones, which q3edge does not have"
_OTHER_MODELS = {
    "qwen3_next": f"Qwen3-Next has {_HYBRID}",
    "qwen3_5": f"Qwen3.5 has {_HYBRID}",
    "qwen3_5_moe": f"Qwen3.5 has {_HYBRID}",
    "qwen3_omni_moe": "Qwen3-Omni hears and speaks; q3edge reads the text part of Qwen3-VL alone",
    "qwen3_asr": "Qwen3-ASR turns speech into text; q3edge is for text",
    "qwen2": "Qwen2 and Qwen2.5 have biases in attention and no norms of queries and keys",
}
_MAX_LAYERS = _MAX_EXPERTS = 4096
_MAX_LAYER_TENSORS = 2**20  # a name is made for each; the largest released Qwen3 has 37 000
_NUM_EXPERTS = ("num_experts", "num_local_experts")  # transformers 5 writes the second
_FULL_ATTENTION = ("full_attention", "attention")  # the second is what transformers called it once
_HEAD_DIM = 128  # of transformers' Qwen3Config, where config.json has none; its Qwen3MoeConfig divides


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Routing of a mixture-of-experts model (Qwen3MoeForCausalLM)."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]

    def replaces_mlp(self, layer: int) -> bool:
        """Tell whether decoder layer `layer` has experts in place of a dense MLP (rule of Qwen3MoeDecoderLayer)."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


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
    is_embedding: bool = False  # there is no head: the last token's hidden state is what the model gives

    @classmethod
    def load(cls, folder: str | Path) -> Qwen3Config:
        """Read folder/config.json; InputError names the file, the field and the value."""
        path = Path(folder) / CONFIG_FILE
        raw = read_json_object(path)
        return cls.from_dict(raw, str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = CONFIG_FILE) -> Qwen3Config:
        """Check and convert the parsed JSON object; `source` names it in errors.

        A model without a head counts as one with tied weights: it has no tensor but the embedding.
        """
        fields = Fields(raw, source)
        model_type = fields.text("model_type")
        if model_type not in SUPPORTED_MODEL_TYPES:
            what = f"{_OTHER_MODELS[model_type]}; " if model_type in _OTHER_MODELS else ""
            raise fields.error("model_type", f"{what}expected one of {', '.join(SUPPORTED_MODEL_TYPES)}")
        _refuse_unsupported(fields)
        hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
        layers = fields.positive("num_hidden_layers", most=_MAX_LAYERS)
        _check_layer_types(fields, layers)
        kv_heads = fields.positive("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise fields.error("num_key_value_heads", f"expected a divisor of num_attention_heads = {heads}")
        head_dim = fields.positive("head_dim", default=_HEAD_DIM if model_type == "qwen3" else hidden // heads)
        if head_dim % 2:
            raise fields.error("head_dim", "expected an even number (rotary embedding turns pairs)")
        max_positions = fields.positive("max_position_embeddings", most=MAX_POSITIONS)
        vocab = fields.positive("vocab_size")
        rope = RopeConfig.from_config(raw, source)
        is_embedding = raw.get("architectures") == [EMBEDDING_ARCHITECTURE]
        if rope.reach(max_positions) > MAX_POSITIONS:
            raise InputError(f"{source}: factor = {rope.factor}: makes the context longer than {MAX_POSITIONS} tokens")
        return cls(
            model_type=model_type,
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=fields.positive("intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=fields.fraction("rms_norm_eps", default=1e-6),
            max_position_embeddings=max_positions,
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False) or is_embedding,
            rope=rope,
            bos_token_id=fields.token("bos_token_id", vocab),
            eos_token_ids=fields.tokens("eos_token_id", vocab),
            pad_token_id=fields.token("pad_token_id", vocab),
            moe=_read_moe(fields, layers) if model_type == "qwen3_moe" else None,
            is_embedding=is_embedding,
        )

    @property
    def context_length(self) -> int:
        """Longest context in tokens: max_position_embeddings, or what YaRN stretches the original length to."""
        return self.rope.reach(self.max_position_embeddings)

    def choosing(self, experts: int) -> Qwen3Config:
        """Copy in which each token goes to so many experts; the model has some."""
        assert self.moe is not None
        return replace(self, moe=replace(self.moe, num_experts_per_tok=experts))

    def is_moe_layer(self, layer: int) -> bool:
        """Tell whether decoder layer `layer` has experts in place of a dense MLP."""
        return self.moe is not None and self.moe.replaces_mlp(layer)


def _refuse_unsupported(fields: Fields) -> None:
    if fields.text("hidden_act", default="silu") != "silu":
        raise fields.error("hidden_act", "expected 'silu', the activation of Qwen3")
    if fields.boolean("attention_bias", default=False):
        raise fields.error("attention_bias", "expected false; no Qwen3 release has biases in attention")
    if fields.boolean("use_sliding_window", default=False):
        raise fields.error("use_sliding_window", "expected false; sliding windows are not supported")


def _check_layer_types(fields: Fields, layers: int) -> None:
    """Refuse layers of another kind; transformers takes `layer_types`, where it is there, whatever else is said."""
    types = fields.raw.get("layer_types")
    if types is None:
        return
    if not isinstance(types, list) or len(types) != layers:
        raise fields.error("layer_types", f"expected a list with one entry for each of num_hidden_layers = {layers}")
    for number, kind in enumerate(types):
        if kind not in _FULL_ATTENTION:
            raise InputError(
                f"{fields.source}: layer_types: {shown(kind)} (layer {number}): expected 'full_attention' for every "
                "layer; sliding windows and linear attention are not supported"
            )


def _read_moe(fields: Fields, layers: int) -> MoeConfig | None:
    """Read the routing; None where no layer has experts, which makes a model a dense one."""
    named = next((name for name in _NUM_EXPERTS if fields.raw.get(name) is not None), _NUM_EXPERTS[0])
    experts = fields.positive(named, most=min(_MAX_EXPERTS, _MAX_LAYER_TENSORS // (3 * layers)))
    if fields.positive(_NUM_EXPERTS[1], default=experts) != experts:
        raise fields.error(_NUM_EXPERTS[1], f"expected {experts}, as {named} says")
    top_k = fields.positive("num_experts_per_tok")
    if top_k > experts:
        raise fields.error("num_experts_per_tok", f"expected at most {named} = {experts}")
    only = fields.raw.get("mlp_only_layers") or []
    if not isinstance(only, list) or len(only) > layers or not all(is_int(layer) for layer in only):
        raise fields.error("mlp_only_layers", "expected a list of layer numbers")
    moe = MoeConfig(
        num_experts=experts,
        num_experts_per_tok=top_k,
        moe_intermediate_size=fields.positive("moe_intermediate_size"),
        norm_topk_prob=fields.boolean("norm_topk_prob", default=False),
        decoder_sparse_step=fields.positive("decoder_sparse_step", default=1),
        mlp_only_layers=tuple(only),
    )
    return moe if any(map(moe.replaces_mlp, range(layers))) else None
