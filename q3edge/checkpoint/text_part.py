"""Text part of a Qwen3-VL: its configuration as that of a Qwen3, and its tensors without those of vision.

Text alone has the same position along time, height and width, so that the interleaved rotary embedding (M-RoPE) turns
every pair as the plain one does (transformers' Qwen3VLTextRotaryEmbedding).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.fields import shown
from q3edge.architecture.layer import layer_prefix
from q3edge.artifact import Notice
from q3edge.checkpoint.matrix import Parts, StoredMatrix
from q3edge.checkpoint.tensor_files import Expected, TensorFiles
from q3edge.errors import InputError

_TEXT_TYPES: Final = {"qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe"}
_ARCHITECTURES: Final = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
_ROPE_FIELDS: Final = ("rope_parameters", "rope_scaling")
_OF_POSITIONS: Final = ("mrope_section", "mrope_interleaved")
_OF_THE_WHOLE: Final = ("quantization_config", "tie_word_embeddings", "transformers_version", "dtype", "torch_dtype")
_VISION: Final = "model.visual."
_ROPE_THETA: Final = 500000.0  # of transformers' Qwen3VLTextConfig, where config.json has none
_FLOATS: Final = ("BF16", "F16", "F32")


def is_vision_language(raw: Mapping[str, Any]) -> bool:
    """Tell whether config.json is that of a Qwen3-VL."""
    return isinstance(kind := raw.get("model_type"), str) and kind in _TEXT_TYPES


def text_config(raw: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Fields of the text part as config.json of a Qwen3 has them; those of any other model as they are.

    InputError: a Qwen3-VL without a text_config; source: its file.
    """
    if not is_vision_language(raw):
        return raw
    own = raw.get("text_config")
    if not isinstance(own, Mapping):
        raise InputError(f"{source}: text_config = {shown(own)}: expected an object, the text part of a Qwen3-VL")
    model_type = _TEXT_TYPES[raw["model_type"]]
    fields = {**own, **{name: raw[name] for name in _OF_THE_WHOLE if name in raw}}
    for name in _ROPE_FIELDS:
        if isinstance(rope := fields.get(name), Mapping):
            fields[name] = {key: value for key, value in rope.items() if key not in _OF_POSITIONS}
    in_parameters = isinstance(fields.get("rope_parameters"), Mapping) and "rope_theta" in fields["rope_parameters"]
    if not in_parameters:
        fields.setdefault("rope_theta", _ROPE_THETA)
    if model_type == "qwen3_moe":
        fields["norm_topk_prob"] = True  # of every Qwen3VLMoeTextTopKRouter
    return {**fields, "model_type": model_type, "architectures": [_ARCHITECTURES[model_type]]}


def leave_out_vision(stored: dict[str, str]) -> list[Notice]:
    """Remove the tensors of vision from `stored`, canonical -> stored name; returns a Notice of how many there were."""
    vision = [name for name in stored if name.startswith(_VISION)]
    for name in vision:
        del stored[name]
    if not vision:
        return []
    detail = "tensors of the vision part were left out: the model reads text alone"
    return [Notice("vision-left-out", len(vision), detail)]


class TransposedExpert(StoredMatrix):
    """Matrix of one expert, which a tensor [E, K, columns] of all experts holds with its columns as rows."""

    holds_floats = True

    def __init__(self, parts: Parts, shape: tuple[int, int], expert: int, first: int, of: tuple[int, int, int]) -> None:
        super().__init__(parts, shape)
        self._expert, self._first, self._of = expert, first, of
        self.label = parts.files.entries[parts.stored["experts"]].dtype

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        return {"experts": (_FLOATS, self._of)}

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]."""
        whole = self.parts.read_float("experts", slice(self._expert, self._expert + 1))[0]
        return np.ascontiguousarray(whole[:, self._first + rows.start : self._first + rows.stop].T)


def transposed_experts(files: TensorFiles, stored: dict[str, str], config: Qwen3Config) -> dict[str, StoredMatrix]:
    """Take the experts of a Qwen3-VL-MoE out of `stored`, where they are as it was released: gate_up_proj [E, H, 2 I].

    Those in the shape of transformers 5, [E, 2 I, H], are left; gate comes before up in both. InputError: a shape that
    may be either.
    """
    if config.moe is None:
        return {}
    count, width, hidden = config.moe.num_experts, config.moe.moe_intermediate_size, config.hidden_size
    found: dict[str, StoredMatrix] = {}
    for layer in filter(config.is_moe_layer, range(config.num_hidden_layers)):
        kinds = {
            "gate_up_proj": (("gate_proj", "up_proj"), width, hidden),
            "down_proj": (("down_proj",), hidden, width),
        }
        for fused, (matrices, rows, columns) in kinds.items():
            name = f"{layer_prefix(layer)}mlp.experts.{fused}"
            shape = (count, columns, rows * len(matrices))
            if name not in stored or files.entries[stored[name]].shape != shape:
                continue
            if shape[1] == shape[2]:
                where = f"{files.path_of(stored[name])} ({stored[name]})"
                raise InputError(f"{where}: shape {list(shape)}: which side is the input cannot be told; refused")
            parts = Parts(files, {"experts": stored.pop(name)})
            for expert in range(count):
                for place, matrix in enumerate(matrices):
                    weight = f"{layer_prefix(layer)}mlp.experts.{expert}.{matrix}.weight"
                    found[weight] = TransposedExpert(parts, (rows, columns), expert, place * rows, shape)
    return found
