"""The quantization_config of QDIR: the library accepts it, and every scheme survives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compressed_tensors.quantization import QuantizationConfig

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.checkpoint import Checkpoint
from q3edge.checkpoint.compressed_tensors import QuantizedWriter
from q3edge.checkpoint.compressed_tensors.settings import quantization_config, read_schemes
from q3edge.errors import UsageError
from q3edge.formats import FORMATS
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import GROUP_SIZES, Scheme
from q3edge.storage.json_files import read_json_object
from tests.helpers.quantized_checkpoints import UP, W8A8, schemes_for


@pytest.mark.parametrize("format_name", FORMATS)
def test_recipes_survive_as_settings_the_library_accepts(source: Checkpoint, format_name: str) -> None:
    schemes = Recipe.for_format(format_name).resolve(source.config)
    written = json.loads(json.dumps(quantization_config(schemes, tied=True)))
    QuantizationConfig.model_validate(written)
    assert read_schemes(written, schemes, "config.json") == schemes


def test_alike_layers_share_a_pattern_and_exceptions_are_named(source: Checkpoint) -> None:
    schemes = schemes_for(source.config, Scheme(4, 32), None) | {UP: Scheme(8, 32)}
    groups = quantization_config(schemes, tied=True)["config_groups"]
    targets = [group["targets"] for group in groups.values()]
    assert r"re:model\.layers\.\d+\.self_attn\.q_proj$" in targets[0]
    assert "model.layers.1.mlp.up_proj" in targets[0]
    assert targets[1] == ["model.layers.0.mlp.up_proj"]
    assert read_schemes(quantization_config(schemes, tied=True), schemes, "config.json") == schemes


def test_experts_share_a_pattern_over_layers_and_numbers() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.up_proj.weight" for i in range(3) for e in range(12)]
    settings_written = quantization_config(dict.fromkeys(names, Scheme(4, 32)), tied=False)
    assert settings_written["config_groups"]["group_0"]["targets"] == [
        r"re:model\.layers\.\d+\.mlp\.experts\.\d+\.up_proj$"
    ]


def test_what_the_layout_cannot_say_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    raw = read_json_object(source.folder / "config.json")
    dtypes = {name: source.dtype(name) for name in source.names()}
    with pytest.raises(UsageError, match=r"model\.embed_tokens\.weight: int8_per_token activations do not apply"):
        QuantizedWriter(tmp_path, raw, schemes_for(source.config, W8A8, W8A8), dtypes)
    with pytest.raises(UsageError, match="quantizes no tensor"):
        QuantizedWriter(tmp_path, raw, schemes_for(source.config, None, None), dtypes)
    with pytest.raises(UsageError, match="group size 256 does not divide the width 64"):
        QuantizedWriter(tmp_path, raw, schemes_for(source.config, Scheme(4, 256), None), dtypes)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_every_group_size_keeps_whole_words(group_size: int) -> None:
    config = Qwen3Config.from_dict({
        "model_type": "qwen3", "vocab_size": 8, "hidden_size": 768, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 9, "tie_word_embeddings": True,
    })  # fmt: skip
    assert read_schemes(
        quantization_config(schemes_for(config, Scheme(2, group_size), None), True), tensor_shapes(config), "c"
    ) == schemes_for(config, Scheme(2, group_size), None)
