"""Bytes in memory and per token, of dense models and of mixtures of experts."""

from __future__ import annotations

from pathlib import Path

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import count_active_weights, count_weights, tensor_shapes
from q3edge.cli.tables.tables import inspection_table
from q3edge.pipeline.footprint import weight_bytes_per_token, weights_in_memory
from q3edge.pipeline.inspect import inspect_model
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from tests.helpers.models import MOE, tiny_config, write_checkpoint

EXPERT = 3 * 32 * 64  # weights of one of the helpers' experts
LAYERS, COUNT, CHOSEN = 2, 8, 2


def config_of(**fields: object) -> Qwen3Config:
    return Qwen3Config.from_dict(tiny_config(**fields))


def test_a_token_uses_the_experts_that_are_chosen() -> None:
    config = config_of(**MOE)
    assert count_active_weights(config) == count_weights(config) - LAYERS * (COUNT - CHOSEN) * EXPERT
    assert count_active_weights(config_of()) == count_weights(config_of())


def test_layers_without_experts_are_read_whole() -> None:
    config = config_of(**MOE | {"mlp_only_layers": [0]})
    assert count_active_weights(config) == count_weights(config) - (COUNT - CHOSEN) * EXPERT


def test_bytes_of_a_token_are_those_of_what_it_uses() -> None:
    config = config_of(**MOE)
    schemes: dict[str, Scheme | None] = dict.fromkeys(tensor_shapes(config))
    assert weight_bytes_per_token(config, schemes) == 4 * count_active_weights(config)
    assert weights_in_memory(config, schemes) == 4 * (count_weights(config) + 320 * 64)  # the tied table twice


def test_experts_keep_their_scales_beside_packed_weights() -> None:
    config = config_of(**MOE)
    schemes = Recipe.for_format("int4").fitted_to(config)[0].resolve(config)
    experts = {name: scheme for name, scheme in schemes.items() if ".experts." in name}
    group = next(iter(experts.values())).group_size  # type: ignore[union-attr]
    assert group is not None
    weights = LAYERS * COUNT * EXPERT
    saved = weights_in_memory(config, schemes | dict.fromkeys(experts)) - weights_in_memory(config, schemes)
    assert saved == 4 * weights - (weights // 2 + 12 * weights // group)


def test_inspection_says_what_a_token_uses(tmp_path: Path) -> None:
    found = inspect_model(str(write_checkpoint(tmp_path / "mixture", **MOE)))
    assert found.weights - found.active_weights == LAYERS * (COUNT - CHOSEN) * EXPERT
    used = f"{found.active_weights / 1e6:.1f} M of the weights"
    assert f"8 experts of width 32 in 2 layers, 2 a token, which uses {used}" in inspection_table(found)
    dense = inspect_model(str(write_checkpoint(tmp_path / "dense")))
    assert dense.active_weights == dense.weights
    assert "experts" not in inspection_table(dense)
