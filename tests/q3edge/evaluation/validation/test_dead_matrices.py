"""Dead weights: what the export lost is told from what the float model never had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.artifact import Manifest
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.errors import InputError
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.exporters.onnx.export import export_decoder
from q3edge.quantization.recipe import Recipe
from tests.helpers.models import MOE, InMemoryWeights

FORMATS = ["float", "int4", "int8", "int8-dynamic"]
_LAYER = "model.layers.1"
_MATRICES = [f"{_LAYER}.self_attn.k_proj", f"{_LAYER}.mlp.down_proj"]  # one lies with others, one alone


def rounded(source: InMemoryWeights, recipe: Recipe) -> InMemoryWeights:
    schemes = recipe.resolve(source.config)
    return InMemoryWeights(
        source.config,
        {name: round_to_nearest(source.read(name), s) if s else source.read(name) for name, s in schemes.items()},
    )


def exported(source: InMemoryWeights, folder: Path, name: str) -> Path:
    folder.mkdir()
    recipe = Recipe((), "float") if name == "float" else Recipe.for_format(name)
    export_decoder(rounded(source, recipe), folder)
    Manifest("onnx", "parent", recipe.to_json()).save(folder)
    return folder


def with_weights(values: NDArray[np.float32] | float, *modules: str) -> InMemoryWeights:
    source = InMemoryWeights.random(3)
    for module in modules:
        shape = source.read(f"{module}.weight").shape
        source.tensors[f"{module}.weight"] = np.broadcast_to(np.float32(values), shape).copy()
    return source


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_q5_a_matrix_that_is_alike_in_the_float_model_is_no_alarm(tmp_path: Path, name: str, value: float) -> None:
    source = with_weights(value, *_MATRICES)
    folder = exported(source, tmp_path / "a", name)
    check = check_dead_matrices(folder, source.config, source)
    assert (check.status, check.value) == ("pass", 0.0)
    assert check.reason == "2 weights are alike throughout, in the reference too"
    assert check_dead_matrices(folder, source.config, exported(source, tmp_path / "b", "int4")).status == "pass"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_q5_a_matrix_that_is_alike_in_the_artifact_alone_is_dead(tmp_path: Path, name: str, value: float) -> None:
    folder = exported(with_weights(value, *_MATRICES), tmp_path / "a", name)
    sound = InMemoryWeights.random(3)
    for reference in (sound, exported(sound, tmp_path / "b", name)):
        check = check_dead_matrices(folder, sound.config, reference)
        assert (check.status, check.value) == ("fail", 2.0)
        assert all(module in check.reason for module in _MATRICES)


@pytest.mark.parametrize("name", FORMATS)
def test_q5_vectors_inside_the_graph_are_looked_at(tmp_path: Path, name: str) -> None:
    """A norm of ones is an ordinary norm, one of zeros silences its block."""
    norms = [f"{_LAYER}.post_attention_layernorm", f"{_LAYER}.self_attn.q_norm"]
    for value, dead in ((1.0, 0.0), (0.0, 2.0)):
        source = with_weights(value, *norms)
        folder = exported(source, tmp_path / f"{value}", name)
        assert check_dead_matrices(folder, source.config, InMemoryWeights.random(3)).value == dead
        assert check_dead_matrices(folder, source.config, source).status == "pass"


def test_q5_equal_codes_with_a_scale_for_each_row_are_what_rounding_gives(tmp_path: Path) -> None:
    """Every row alike in itself: all codes are equal, and nothing is lost."""
    source = with_weights(0.0, _MATRICES[1])
    shape = source.read(f"{_MATRICES[1]}.weight").shape
    rows = np.exp2(np.random.default_rng(0).integers(-3, 1, (shape[0], 1))).astype(np.float32)
    source.tensors[f"{_MATRICES[1]}.weight"] = np.broadcast_to(rows, shape).copy()
    folder = exported(source, tmp_path / "a", "int4")
    assert check_dead_matrices(folder, source.config, source).status == "pass"
    assert check_dead_matrices(folder, source.config, InMemoryWeights.random(3)).value == 1.0


def test_q5_a_sound_artifact_has_no_weight_that_is_alike(tmp_path: Path) -> None:
    source = InMemoryWeights.random(3)
    check = check_dead_matrices(exported(source, tmp_path / "a", "int4"), source.config, source)
    assert (check.status, check.reason) == ("pass", "no weight is all alike")


def test_a_tensor_of_other_operators_is_an_error(tmp_path: Path) -> None:
    source = InMemoryWeights.random(3, **MOE)
    folder = exported(source, tmp_path / "a", "float")
    Manifest.load(folder).with_metrics({"experts": "plain"}).save(folder)
    with pytest.raises(InputError, match=r"'model\.layers\.0\.mlp\.experts\.gate_up_proj' is of no export of its reci"):
        check_dead_matrices(folder, source.config, source)
