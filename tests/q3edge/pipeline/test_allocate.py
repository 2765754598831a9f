"""A budget end to end: kept to on disk, no worse than uniform, repeated by its recipe, resumed when killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVScales
from q3edge.artifact import Manifest
from q3edge.artifact.side_files import RECIPE_FILE
from q3edge.calibration.budget.sensitivity import Sensitivity
from q3edge.calibration.layers.layerwise import LayerwiseCalibration
from q3edge.calibration.layers.scheme_groups import SchemeGroup
from q3edge.calibration.layers.streams import StateStream
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.errors import UsageError
from q3edge.exporters.onnx.export import export_decoder
from q3edge.formats import CacheType
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.quantize.allocate import _PlanSearch
from q3edge.pipeline.quantize.calibrate import Budget, CalibrationOptions, work_folder
from q3edge.pipeline.quantize.plans import Plan, make_plans, widths_of
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.pipeline.quantize.targets import OnnxTarget
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import Killed, random_tokens, solver_calls
from tests.helpers.models import tiny_config, write_checkpoint
from tests.helpers.onnx_models import quantized_model
from tests.helpers.runtime import write_tokenizer

BITS = 5.2
CACHES: list[tuple[CacheType, int]] = [("float32", 85_000), ("int8", 100_000)]


class Quantizing:
    """`quantize_checkpoint` of a small model to a number of bits per weight."""

    def __init__(self, folder: Path, **overrides: int) -> None:
        self.model, self.output = write_checkpoint(folder / "model", **overrides), folder / "out"
        self.tokens = folder / "tokens.npy"
        write_tokenizer(self.model)
        np.save(self.tokens, random_tokens(12, 32, vocab=300))

    def __call__(
        self, bits: float | None = BITS, recipe: Recipe | None = None, *, reconstruct: bool = False
    ) -> dict[str, bytes]:
        budget = None if bits is None else Budget(bits_per_weight=bits)
        quantize_checkpoint(
            str(self.model),
            self.output,
            recipe or Recipe.for_format("int4"),
            CalibrationOptions((self.tokens,), reconstruct=reconstruct, budget=budget),
            overwrite=True,
        )
        return {path.name: path.read_bytes() for path in self.output.iterdir()}

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(Manifest.load(self.output).metrics)


def test_the_best_plan_within_the_budget_is_kept_and_its_recipe_repeats_it(tmp_path: Path) -> None:
    quantize = Quantizing(tmp_path)
    (quantize.model / RECIPE_FILE).write_text("somebody else's")
    files = quantize()
    found = quantize.metrics["allocation"]
    plans = found["plans"]
    assert found["plan"] == min(plans, key=lambda name: plans[name]["kl"])
    assert plans[found["plan"]]["kl"] <= plans["uniform"]["kl"]
    assert len(set(found["units"].values())) > 1
    assert all(plan["bytes"] <= found["budget_bytes"] for plan in plans.values())
    assert not work_folder(quantize.output).exists()
    recipe = Recipe.load(quantize.output / RECIPE_FILE)
    again = quantize(bits=None, recipe=recipe)
    assert again["model.safetensors"] == files["model.safetensors"]
    assert again["config.json"] == files["config.json"]


@pytest.mark.parametrize("helps", [True, False])
def test_the_winner_is_reconstructed_and_kept_where_that_helps(
    helps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out_kl = _PlanSearch._held_out_kl

    def judged(
        contest: _PlanSearch, walk: LayerwiseCalibration, states: StateStream
    ) -> float:  # so few tokens would decide by chance
        return held_out_kl(contest, walk, states) * ((0.5 if helps else 2.0) if walk._reconstruct else 1.0)

    monkeypatch.setattr(_PlanSearch, "_held_out_kl", judged)
    quantize = Quantizing(tmp_path)
    files = quantize(reconstruct=True)
    found = quantize.metrics["allocation"]
    plans = found["plans"]
    (name,) = (name for name in plans if name.endswith("-reconstructed"))
    winner = name.removesuffix("-reconstructed")
    assert plans[winner]["kl"] == min(plan["kl"] for other, plan in plans.items() if other != name)
    assert plans[winner]["bytes"] == plans[name]["bytes"]
    assert found["plan"] == (name if helps else winner)
    assert (plans[name]["kl"] < plans[winner]["kl"]) is helps
    assert ("reconstruction" in quantize.metrics) is helps
    recipe = Recipe.load(quantize.output / RECIPE_FILE)
    again = quantize(bits=None, recipe=recipe, reconstruct=helps)
    assert again["model.safetensors"] == files["model.safetensors"]


def nothing(_: Path) -> None:
    """As it was left."""


def cut_values(work: Path) -> None:
    """Two files that were not written to their end."""
    for name in ("costs.json", "judged.json"):
        (work / name).write_bytes((work / name).read_bytes()[:-20])


@pytest.mark.parametrize("damage", [nothing, cut_values])
def test_a_killed_budget_goes_on_with_what_it_has(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = Quantizing(tmp_path)
    whole = quantize()
    stored: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        store = WorkFolder.store

        def then_die(journal: WorkFolder, name: str, values: object) -> None:
            store(journal, name, values)
            stored.append(name)
            if len(stored) == 2:
                raise Killed

        patch.setattr(WorkFolder, "store", then_die)
        with pytest.raises(Killed):
            quantize()
    assert stored == ["costs", "judged"]
    assert {path.name: path.read_bytes() for path in quantize.output.iterdir()} == whole
    measured: list[int] = []
    run = Sensitivity.run
    monkeypatch.setattr(Sensitivity, "run", lambda self: measured.append(1) or run(self))  # type: ignore[func-returns-value]
    damage(work_folder(quantize.output))
    if damage is not nothing:
        assert quantize() == whole
        assert measured
        return
    calls = solver_calls(monkeypatch)
    assert quantize() == whole
    assert not measured
    assert len(calls) == 3 * (len(quantize.metrics["allocation"]["plans"]) - 1)


@pytest.mark.parametrize(
    ("shape", "bits", "count", "unit"),
    [({"intermediate_size": 112}, 14.0, 2, "layer.0.down"), ({"hidden_size": 48}, 28.0, 11, "tables")],
)
def test_a_width_that_32_does_not_divide_stays_float_with_a_notice(
    shape: dict[str, int], bits: float, count: int, unit: str, tmp_path: Path
) -> None:
    quantize = Quantizing(tmp_path, **shape)
    quantize(bits=bits)
    (notice,) = (found for found in Manifest.load(quantize.output).notices if found.code == "left-float")
    assert notice.count == count
    units = quantize.metrics["allocation"]["units"]
    assert units[unit] == "float"
    assert {*units.values()} != {"float"}


@pytest.mark.parametrize("bits", [0.1, 40.0])
def test_a_hopeless_budget_leaves_nothing_behind(bits: float, tmp_path: Path) -> None:
    quantize = Quantizing(tmp_path)
    with pytest.raises(UsageError, match="MB"):
        quantize(bits=bits)
    assert not quantize.output.exists()
    assert not work_folder(quantize.output).exists()


def test_another_budget_does_not_go_on_with_it(tmp_path: Path) -> None:
    quantize = Quantizing(tmp_path)
    with pytest.MonkeyPatch.context() as patch:

        def die(*_: object) -> None:
            raise Killed

        patch.setattr(WorkFolder, "store", die)
        with pytest.raises(Killed):
            quantize()
    with pytest.raises(UsageError, match="budget changed"):
        quantize(bits=BITS + 1)


CONFIG = Qwen3Config.from_dict(tiny_config())


def stated_costs(seed: int) -> dict[SchemeGroup, list[float]]:
    """Nats by unit and width as they might be measured: measured ones differ between CPUs, and then the plans do."""
    rng = np.random.default_rng(seed)

    def cost(scheme: Scheme | None) -> float:
        return 0.0 if scheme is None else float(rng.lognormal(0, 1) * 4.0**-scheme.bits)

    return {unit: [cost(scheme) for scheme in widths] for unit, widths in widths_of(OnnxTarget(CONFIG)).items()}


def exported_bytes(plan: Plan, cache: CacheType, folder: Path) -> int:
    """Of the graph and the weights of a model that has the plan's schemes."""
    schemes = {name: scheme for unit, scheme in plan.schemes.items() for name in unit.tensors}
    shape = (CONFIG.num_hidden_layers, CONFIG.num_key_value_heads, CONFIG.head_dim)
    scales = KVScales(np.ones(shape, np.float32), np.ones(shape, np.float32)) if cache == "int8" else None
    export_decoder(quantized_model(schemes.__getitem__), folder, kv_scales=scales)
    return sum(path.stat().st_size for path in (folder / "onnx").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "budget"), CACHES)
def test_every_plan_is_as_large_when_exported_as_it_says(cache: CacheType, budget: int, tmp_path: Path) -> None:
    for seed in range(12):
        for plan in make_plans(OnnxTarget(CONFIG, cache == "int8"), stated_costs(seed), budget):
            assert exported_bytes(plan, cache, tmp_path / f"{seed}-{plan.name}") == plan.size <= budget


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "budget"), CACHES)
def test_an_exported_model_is_as_small_as_was_asked(
    cache: CacheType, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever plan wins: its KL is measured, and the plans come out near to each other."""
    monkeypatch.setattr(Sensitivity, "run", lambda *_: stated_costs(0))
    for plan in make_plans(OnnxTarget(CONFIG, cache == "int8"), stated_costs(0), budget):
        assert 0.9 * budget < exported_bytes(plan, cache, tmp_path / plan.name) <= budget
    quantize = Quantizing(tmp_path)
    calibration = CalibrationOptions((quantize.tokens,), budget=Budget(size=budget))
    recipe, text = replace(Recipe.for_format("int4"), kv_cache=cache), tmp_path / "text.txt"
    text.write_text("some words to judge on, again and again. " * 40)
    build_artifact(str(quantize.model), tmp_path / "onnx", recipe, calibration, texts=[text])
    assert 0.9 * budget < sum(path.stat().st_size for path in (tmp_path / "onnx" / "onnx").iterdir()) <= budget
    assert (tmp_path / "onnx" / RECIPE_FILE).exists()
