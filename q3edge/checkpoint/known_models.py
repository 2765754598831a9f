"""The Qwen3 family as it lies on the hub: names, shapes, context, thinking, licence; known without a network."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from q3edge.architecture.config import EMBEDDING_ARCHITECTURE, Qwen3Config

_ORGANISATION = "Qwen"
_FAMILY = "qwen3-"  # what may be left out in front of a short name
_HEAD_DIM, _VOCABULARY = 128, 151936
Thinks = Literal["hybrid", "always", "never"]
KnownKind = Literal["chat model", "base model", "embedding model", "reranker"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A released model. name: the short one. shape: of its tensors, which models may share.

    thinks: "hybrid" as the prompt asks; None for models that do not chat. quantized: hub ids of its official quantized
    forms by their ending, such as "AWQ". head_stored: the files have the weights of a tied head a second time.
    """

    name: str
    hub_id: str
    kind: KnownKind
    shape: str
    config: Qwen3Config
    thinks: Thinks | None
    license: str
    quantized: Mapping[str, str]
    head_stored: bool

    @property
    def download_bytes(self) -> int:
        """Bytes of the weights on the hub, in bfloat16."""
        from q3edge.architecture.tensors import count_weights

        again = self.config.vocab_size * self.config.hidden_size if self.head_stored else 0
        return 2 * (count_weights(self.config) + again)


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All models, in the order of the file that lists them."""
    raw = tomllib.loads((files("q3edge.data") / "known_models.toml").read_text(encoding="utf-8"))
    return tuple(_known(key, entry, raw) for key, entry in raw["models"].items())


def known_model(name: str) -> KnownModel | None:
    """Find a model by its short name, with or without "qwen3-", or by its hub id; also one of its quantized forms.

    Letters may be large or small. None: it is none of them.
    """
    found = _names().get(_canonical(name))
    return None if found is None else found[0]


def hub_id_of(name: str) -> str | None:
    """Hub id that a short name stands for, which may be that of a quantized form; None: it is no short name."""
    found = None if "/" in name else _names().get(_canonical(name))
    return None if found is None else found[1]


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Short names that are spelled almost like `name`; none where nothing is."""
    asked = _canonical(name[:200])
    parts = [known for known in _names() if asked.removeprefix(_FAMILY) in known]
    return (get_close_matches(asked, _names(), n=count, cutoff=0.7) or parts)[:count] if asked != _FAMILY else []


def _canonical(name: str) -> str:
    found = name.lower().removeprefix(f"{_ORGANISATION.lower()}/")
    return found if found.startswith(_FAMILY) else _FAMILY + found


@cache
def _names() -> dict[str, tuple[KnownModel, str]]:
    """Every short name -> its model, and its own hub id."""
    found = {}
    for model in known_models():
        found[model.name] = model, model.hub_id
        for hub_id in model.quantized.values():
            found[_canonical(hub_id)] = model, hub_id
    return found


def _known(key: str, entry: Mapping[str, Any], raw: Mapping[str, Any]) -> KnownModel:
    hub_id = f"{_ORGANISATION}/{key}"
    shape = raw["shapes"][entry["shape"]]
    kind: KnownKind = "chat model" if "thinks" in entry else "base model"
    if "Embedding" in key:
        kind = "embedding model"
    elif "Reranker" in key:
        kind = "reranker"
    return KnownModel(
        name=key.lower(),
        hub_id=hub_id,
        kind=kind,
        shape=entry["shape"],
        config=_config(shape, entry["context"], entry["theta"]),
        thinks=entry.get("thinks"),
        license=raw["license"],
        quantized={ending: f"{hub_id}-{ending}" for ending in entry.get("quantized", ())},
        head_stored=entry.get("head_stored", False),
    )


def _config(shape: Mapping[str, Any], context: int, theta: float) -> Qwen3Config:
    """Configuration as config.json has it, through the same checks."""
    fields: dict[str, Any] = {
        "model_type": "qwen3_moe" if "experts" in shape else "qwen3",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv"],
        "head_dim": _HEAD_DIM,
        "vocab_size": shape.get("vocab", _VOCABULARY),
        "tie_word_embeddings": shape["tied"],
        "max_position_embeddings": context,
        "rope_theta": theta,
    }
    if "experts" in shape:
        names = "num_experts", "num_experts_per_tok", "moe_intermediate_size"
        fields |= dict(zip(names, shape["experts"])) | {"norm_topk_prob": True}
    if shape.get("headless"):
        fields["architectures"] = [EMBEDDING_ARCHITECTURE]
    return Qwen3Config.from_dict(fields, "known_models.toml")
