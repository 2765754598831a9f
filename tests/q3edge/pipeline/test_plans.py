"""Plans for a budget: within it, whole, and recipes that say the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.calibration.layers.scheme_groups import SchemeGroup
from q3edge.errors import UsageError
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.pipeline.quantize.calibrate import Budget
from q3edge.pipeline.quantize.plans import Plan, always_float, check_budget, largest_plan, make_plans, widths_of
from q3edge.pipeline.quantize.targets import OnnxTarget
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from tests.helpers.models import MOE, tiny_config

CONFIG = Qwen3Config.from_dict(tiny_config(num_hidden_layers=4))
TARGET = OnnxTarget(CONFIG)
COSTS = {
    unit: [0.0 if scheme is None else float(weight * 2.0 ** (-2 * scheme.bits)) for scheme in widths]
    for (unit, widths), weight in zip(
        widths_of(TARGET).items(), np.random.default_rng(0).lognormal(0, 2, 100), strict=False
    )
}
LARGEST = largest_plan(TARGET).size


@pytest.mark.parametrize("share", [0.55, 0.65, 0.8, 0.99])
def test_plans_keep_to_the_budget_and_the_knapsack_predicts_least(share: float) -> None:
    budget = int(share * LARGEST)
    plans = {plan.name: plan for plan in make_plans(TARGET, COSTS, budget)}
    assert all(plan.size <= budget for plan in plans.values())
    assert plans["measured"].predicted_kl == min(plan.predicted_kl for plan in plans.values())
    assert len(set(plans["uniform"].schemes.values())) <= 2


def costs_with_tables(four_bits: float) -> dict[SchemeGroup, list[float]]:
    """All layers cost alike; tables cost `four_bits` at 4 bits and nothing above."""

    def cost(unit: SchemeGroup, scheme: Scheme | None) -> float:
        if scheme is None or (unit.layer is None and scheme.bits > 4):
            return 0.0
        return four_bits if unit.layer is None else 4.0**-scheme.bits

    return {unit: [cost(unit, scheme) for scheme in widths] for unit, widths in widths_of(TARGET).items()}


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_tables_of_other_bits_compete_where_they_may_be_better(share: float) -> None:
    budget = int(share * LARGEST)

    def plans(four_bits: float) -> dict[str, Plan]:
        return {plan.name: plan for plan in make_plans(TARGET, costs_with_tables(four_bits), budget)}

    def bits(plan: Plan) -> set[int]:
        return {scheme.bits for unit, scheme in plan.schemes.items() if unit.layer is None and scheme is not None}

    cheap, dear = plans(0.0), plans(1e6)
    assert bits(cheap["measured"]) == {4}
    assert bits(dear["measured"]) == {8}
    # What the wider tables cost in the layers is where both are predicted alike.
    even = plans(dear["measured"].predicted_kl - cheap["measured"].predicted_kl)
    assert {*even} == {"uniform", "measured", "tables"}
    assert {*bits(even["measured"]), *bits(even["tables"])} == {4, 8}
    assert even["tables"].predicted_kl == pytest.approx(even["measured"].predicted_kl)
    assert "tables" not in dear


def test_a_plans_recipe_has_one_rule_for_all_experts() -> None:
    config = Qwen3Config.from_dict(tiny_config(num_hidden_layers=4, **MOE))
    schemes = {
        unit: Scheme(8, 32) if unit.layer is None else (Scheme(4, 32), Scheme(4, 32, False))[unit.layer % 2]
        for unit in widths_of(OnnxTarget(config))
    }
    recipe = Plan("made up", schemes, 0, 0.0).recipe
    matches = [rule.match for rule in recipe.rules]
    assert [match for match in matches if match.startswith("model.layers.1.mlp.")] == [
        f"model.layers.1.mlp.experts.*.{part}_proj" for part in ("gate", "up", "down")
    ]
    resolved = recipe.for_model(config).resolve(config)
    assert all(resolved[name] == scheme for unit, scheme in schemes.items() for name in unit.tensors)


def test_a_plans_recipe_says_what_the_plan_does(tmp_path: Path) -> None:
    plan = make_plans(TARGET, COSTS, int(0.65 * LARGEST))[-1]
    assert len(set(plan.schemes.values())) > 2
    file = tmp_path / "recipe.toml"
    file.write_text(plan.recipe.to_toml())
    read = Recipe.load(file)
    assert read == plan.recipe
    schemes = read.resolve(CONFIG)
    for unit, scheme in plan.schemes.items():
        assert all(schemes[name] == scheme for name in unit.tensors)
    assert all(schemes[name] is None for name, shape in tensor_shapes(CONFIG).items() if len(shape) == 1)


def test_a_budget_below_the_smallest_plan_is_refused() -> None:
    def fits(budget: int) -> Plan:
        check_budget(TARGET, budget)
        return min(make_plans(TARGET, COSTS, budget), key=lambda plan: plan.size)

    with pytest.raises(UsageError, match=r"the smallest that this model can be is \d"):
        fits(1000)
    least = fits(LARGEST // 2).size
    check_budget(TARGET, least)


@pytest.mark.parametrize("int8_cache", [False, True])
def test_a_budget_that_the_float_model_fits_is_refused(int8_cache: bool) -> None:
    floats = dry_run(CONFIG, dict.fromkeys(tensor_shapes(CONFIG)), "int8" if int8_cache else "float32").model_bytes
    target = OnnxTarget(CONFIG, int8_cache)
    check_budget(target, floats - 1)
    assert all(any(plan.schemes.values()) for plan in make_plans(target, COSTS, floats - 1))
    for bits in (40.0, 1e308, math.inf):
        with pytest.raises(
            UsageError, match=r"the whole float model takes [\d.]+ MB, .*use it as it is .*--format float.*, or give"
        ):
            check_budget(target, Budget(bits_per_weight=bits).bytes_for(CONFIG))
    with pytest.raises(UsageError, match="the whole float model"):
        check_budget(target, floats)


@pytest.mark.parametrize(
    ("shape", "count", "name"),
    [
        ({"intermediate_size": 112}, 2, "model.layers.0.mlp.down_proj.weight"),
        ({"hidden_size": 48}, 11, "model.layers.0.self_attn.q_proj.weight"),
        ({"hidden_size": 48, "intermediate_size": 112}, 13, "model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_matrices_that_no_width_fits_stay_float_in_every_plan(shape: dict[str, int], count: int, name: str) -> None:
    config = Qwen3Config.from_dict(tiny_config(**shape))
    target = OnnxTarget(config)
    notice = always_float(target)
    assert notice is not None
    assert notice.count == count
    assert notice.detail.endswith(f"of {name}")
    largest = largest_plan(target)
    resolved = largest.recipe.resolve(config)
    matrices = [tensor for tensor, dimensions in tensor_shapes(config).items() if len(dimensions) == 2]
    assert sum(resolved[tensor] is None for tensor in matrices) == count
    costs = {unit: [0.0 if s is None else 4.0**-s.bits for s in widths] for unit, widths in widths_of(target).items()}
    check_budget(target, largest.size)
    plans = make_plans(target, costs, largest.size)
    assert plans
    for plan in plans:
        assert plan.size <= largest.size
        assert plan.recipe.resolve(config)[name] is None
    with pytest.raises(UsageError, match=rf"smallest .* as {count} matrices stay float: 32 .*{name}; give more, or"):
        check_budget(target, 1000)


def test_a_model_without_a_matrix_to_round_is_refused() -> None:
    config = Qwen3Config.from_dict(
        tiny_config(hidden_size=48, head_dim=16, num_attention_heads=3, num_key_value_heads=1, intermediate_size=112)
    )
    with pytest.raises(UsageError, match="no budget can be spent on this model, as all 15 matrices stay float"):
        check_budget(OnnxTarget(config), 200_000)
