"""Mixtures of experts are judged: damage to one expert is found, routing is compared, errors are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.errors import InputError
from q3edge.evaluation.distance.chain import compare_models
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.statistics import summarize
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.evaluation.validation.validate import validate_artifact
from q3edge.exporters.onnx.export import export_decoder
from q3edge.formats import EXPERT_OPERATORS, ExpertOperators
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.blocks.experts import Routing
from q3edge.reference.model import hidden_states
from q3edge.reference.routing import chosen_experts
from tests.helpers.models import MOE, InMemoryWeights, tiny_config

Tensor = NDArray[np.float32] | QuantizedTensor
FORMATS = ("float", "int4", "int8")
_EXPERTS = "model.layers.1.mlp.experts"


@pytest.fixture(scope="module")
def source() -> InMemoryWeights:
    return InMemoryWeights.random(3, **MOE)


def rounded(source: InMemoryWeights, name: str) -> dict[str, Tensor]:
    schemes = recipe_of(name).resolve(source.config)
    return {n: round_to_nearest(source.read(n), s) if s else source.read(n) for n, s in schemes.items()}


def recipe_of(name: str) -> Recipe:
    return Recipe((), "float") if name == "float" else Recipe.for_format(name)


def exported(
    source: InMemoryWeights, folder: Path, name: str, tensors: Mapping[str, Tensor], experts: ExpertOperators = "qmoe"
) -> Path:
    folder.mkdir()
    export_decoder(InMemoryWeights(source.config, tensors), folder, experts=experts)
    (folder / "config.json").write_text(json.dumps(tiny_config(**MOE)))
    Manifest("onnx", "parent", recipe_of(name).to_json(), metrics={"experts": experts}).save(folder)
    return folder


def validated(
    source: InMemoryWeights, folder: Path, name: str, tensors: Mapping[str, Tensor], experts: ExpertOperators = "qmoe"
) -> ValidationReport:
    return validate_artifact(exported(source, folder, name, tensors, experts), source, windows(), threads=1)


def windows() -> list[Window]:
    rng = np.random.default_rng(1)
    return [Window(f"text {i}", rng.integers(0, 320, length)) for i, length in enumerate((65, 140, 33))]


def matrix(expert: int, part: str) -> str:
    return f"{_EXPERTS}.{expert}.{part}_proj.weight"


def zeros(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, QuantizedTensor):
        return np.zeros_like(tensor)
    points = tensor.zero_points
    if points is None:
        points = np.full(tensor.scales.shape, tensor.scheme.implicit_zero_point, np.uint8)
    return replace(tensor, codes=np.repeat(points, tensor.shape[1] // tensor.scales.shape[1], axis=1))


def one_code(tensor: Tensor) -> Tensor:
    return replace(tensor, codes=np.full_like(tensor.codes, 3)) if isinstance(tensor, QuantizedTensor) else tensor * 0


def without_scales(tensor: Tensor) -> Tensor:
    return replace(tensor, scales=np.zeros_like(tensor.scales)) if isinstance(tensor, QuantizedTensor) else tensor * 0


@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", [one_code, without_scales])
def test_one_matrix_of_one_expert_is_found_dead(
    source: InMemoryWeights, tmp_path: Path, name: str, experts: ExpertOperators, damage: Callable[[Tensor], Tensor]
) -> None:
    for part in ("gate", "up", "down"):
        tensors = rounded(source, name)
        tensors[matrix(5, part)] = damage(tensors[matrix(5, part)])
        check = check_dead_matrices(exported(source, tmp_path / part, name, tensors, experts), source.config, source)
        assert (check.status, check.value) == ("fail", 1.0)
        assert check.reason.startswith(f"1 weights are all zero or all alike: {_EXPERTS}.5.{part}_proj;")


def swapped(tensors: dict[str, Tensor], a: str, b: str) -> None:
    tensors[a], tensors[b] = tensors[b], tensors[a]


def gate_for_up(tensors: dict[str, Tensor]) -> None:
    swapped(tensors, matrix(7, "gate"), matrix(7, "up"))


def exchanged(tensors: dict[str, Tensor]) -> None:
    for part in ("gate", "up", "down"):
        swapped(tensors, matrix(1, part), matrix(7, part))


def silent(tensors: dict[str, Tensor]) -> None:
    for part in ("gate", "up", "down"):
        tensors[matrix(7, part)] = zeros(tensors[matrix(7, part)])


def deaf_router(tensors: dict[str, Tensor]) -> None:
    router = np.array(tensors["model.layers.1.mlp.gate.weight"])
    router[7] = 0.0
    tensors["model.layers.1.mlp.gate.weight"] = router


@pytest.mark.parametrize("name", ["float", "int8"])
def test_damage_to_one_expert_or_its_row_of_the_router_is_seen_in_the_kl(
    source: InMemoryWeights, tmp_path: Path, name: str
) -> None:
    sound = validated(source, tmp_path / "sound", name, rounded(source, name))
    assert not sound.failures
    found: dict[str, ValidationReport] = {}
    for damage in (gate_for_up, exchanged, silent, deaf_router):
        tensors = rounded(source, name)
        damage(tensors)
        report = found[damage.__name__] = validated(source, tmp_path / damage.__name__, name, tensors)
        assert report.text_kl.value > max(0.03, 3 * sound.text_kl.value)
        assert report.routing[0] == sound.routing[0]  # the layer before it
        if name == "float":
            assert "float_kl" in {check.name for check in report.failures}
    assert found["deaf_router"].routing[1].agreement < sound.routing[1].agreement - 0.1
    assert found["exchanged"].routing[1] == sound.routing[1]


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_the_error_of_rounded_activations_is_told_from_that_of_the_weights(
    source: InMemoryWeights, tmp_path: Path, name: str
) -> None:
    tensors = rounded(source, name)
    report = validated(source, tmp_path / "a", name, tensors)
    models = FloatReference(source), FloatReference(InMemoryWeights(source.config, tensors))
    (metrics,) = compare_models(windows(), models)
    assert report.weights_part is not None
    assert report.activations_part is not None
    assert report.weights_part.mean_kl.value == pytest.approx(summarize(metrics).mean_kl.value, rel=1e-3)
    assert report.activations_part.mean_kl.value > 1e-4


@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
def test_routing_is_that_of_the_weights(source: InMemoryWeights, tmp_path: Path, experts: ExpertOperators) -> None:
    """With float weights; those of other weights say how many experts each token keeps."""
    other = InMemoryWeights.random(4, **MOE)
    tensors = {**source.tensors, "model.layers.0.mlp.gate.weight": other.tensors["model.layers.0.mlp.gate.weight"]}
    routing = validated(source, tmp_path / "a", "float", tensors, experts).routing
    ids = [window.inputs for window in windows()]
    kept = []
    for layer in (0, 1):
        same, counts = 0, np.zeros(8, np.int64)
        for text in ids:
            expected, found = (
                chosen_experts(weights, text[None], label="")[layer][0].tolist()
                for weights in (source, InMemoryWeights(source.config, tensors))
            )
            same += sum(len({*a} & {*b}) for a, b in zip(expected, found))
            counts += np.bincount(np.ravel(expected), minlength=8)
        assert routing[layer].tokens == tuple(counts.tolist())
        kept.append(same / counts.sum())
    assert [found.agreement for found in routing] == pytest.approx(kept)
    assert kept[0] < 0.7


def test_chosen_experts_are_those_of_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    source = InMemoryWeights.random(5, **MOE | {"num_hidden_layers": 4, "decoder_sparse_step": 2})
    ids = np.random.default_rng(0).integers(0, 320, (2, 9))
    chosen = chosen_experts(source, ids, label="")
    seen: list[torch.Tensor] = []
    route = Routing.of

    def recorded(*args: Any) -> Routing:
        seen.append((found := route(*args)).experts)
        return found

    monkeypatch.setattr(Routing, "of", recorded)
    hidden_states(source, ids)
    assert [*chosen] == [1, 3]
    for found, expected in zip(chosen.values(), seen, strict=True):
        assert torch.equal(found.flatten(0, 1), expected)


def test_a_weight_that_the_judge_does_not_find_is_an_error(source: InMemoryWeights, tmp_path: Path) -> None:
    folder = exported(source, tmp_path / "a", "int4", rounded(source, "int4"))
    graph = onnx.load(folder / MODEL_FILE, load_external_data=False)
    for tensor in graph.graph.initializer:
        if tensor.name == "model.layers.1.mlp.gate":
            tensor.name = "model.layers.1.mlp.new_kind"
    onnx.save(graph, folder / MODEL_FILE)
    with pytest.raises(InputError, match=r"tensor 'model\.layers\.1\.mlp\.new_kind' is of no export of its recipe"):
        check_dead_matrices(folder, source.config, source)
    kept = [tensor for tensor in graph.graph.initializer if not tensor.name.endswith("new_kind")]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    onnx.save(graph, folder / MODEL_FILE)
    expected = r"1 weights are in no tensor of the graph: model\.layers\.1\.mlp\.gate\.weight; export again"
    with pytest.raises(InputError, match=expected):
        check_dead_matrices(folder, source.config, source)
