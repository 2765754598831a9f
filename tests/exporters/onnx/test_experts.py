"""Experts of an exported model: the same logits by either kind of operators, and every stored byte accounted for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import DATA_FILE, MODEL_FILE, Manifest
from q3edge.errors import InputError
from q3edge.evaluation.validation.activations import ActivationRounding
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.exporters.onnx.expert_matrices import expert_matrices
from q3edge.exporters.onnx.export import export_decoder
from q3edge.exporters.onnx.stored import expert_specs
from q3edge.formats import EXPERT_OPERATORS, ExpertOperators
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.session.exact_activations import exact_experts
from tests.helpers.models import MOE, InMemoryWeights
from tests.helpers.onnx_models import ExportedDecoder, quantized_model, random_quantized, relative_error

W8A8 = Scheme(8, None, activations="int8_per_token")
SCHEMES: dict[str, tuple[Scheme | None, Scheme | None]] = {  # of gate and up, of down
    "float": (None, None),
    "int4": (Scheme(4, 32, symmetric=False),) * 2,
    "two group sizes": (Scheme(4, 64), Scheme(4, 16, symmetric=False, scales="float16")),
    "int8": (Scheme(8, 16),) * 2,
    "int8 with zero points": (Scheme(8, 32, symmetric=False),) * 2,
    "one scale per row": (W8A8,) * 2,
}
TWO_LAYERS = MOE | {"num_hidden_layers": 3, "mlp_only_layers": [1]}  # and a dense one between them


def mixture(gate_up: Scheme | None, down: Scheme | None, **overrides: Any) -> InMemoryWeights:
    def scheme_for(name: str) -> Scheme | None:
        return (down if "down_proj" in name else gate_up) if ".experts." in name else None

    return quantized_model(scheme_for, **TWO_LAYERS | overrides)


def reference_logits(source: InMemoryWeights, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    hidden = hidden_states(source, ids)
    return LogitsHead(source).logits(hidden.flatten(0, 1)).view(*ids.shape, -1).numpy()


def some_ids(*shape: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 320, shape)


@pytest.mark.parametrize("normalized", [True, False], ids=["shares of the chosen", "shares of all"])
@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
@pytest.mark.parametrize("schemes", SCHEMES)
def test_logits_are_the_references(schemes: str, experts: ExpertOperators, normalized: bool, tmp_path: Path) -> None:
    source = mixture(*SCHEMES[schemes], norm_topk_prob=normalized)
    with exact_experts():
        exported = ExportedDecoder(source, tmp_path, accuracy_level=0, experts=experts)
    ids = some_ids(2, 9)
    together, _ = exported.step(ids)
    rounded = schemes == "one scale per row" and experts == "plain"
    assert relative_error(together, reference_logits(source, ids)) < (0.03 if rounded else 2e-5)
    _, past = exported.step(ids[:, :8])
    alone, _ = exported.step(ids[:, 8:], past=past)
    assert relative_error(alone[:, 0], together[:, 8]) < (0.03 if rounded else 2e-5)


@pytest.mark.parametrize("schemes", SCHEMES)
def test_both_kinds_of_operators_round_alike(schemes: str, tmp_path: Path) -> None:
    source = mixture(*SCHEMES[schemes])
    ids = some_ids(1, 16)
    exported = [ExportedDecoder(source, tmp_path / experts, experts=experts) for experts in EXPERT_OPERATORS]
    assert relative_error(*(decoder.step(ids)[0] for decoder in exported)) < 0.1


@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
@pytest.mark.parametrize("schemes", SCHEMES)
def test_a_dry_run_is_what_an_export_writes(schemes: str, experts: ExpertOperators, tmp_path: Path) -> None:
    source = mixture(*SCHEMES[schemes])
    export_decoder(source, tmp_path, experts=experts)
    plan = dry_run(source.config, {name: source.scheme(name) for name in source.tensors}, experts=experts)
    assert plan.graph_bytes == (tmp_path / MODEL_FILE).stat().st_size
    assert plan.data_bytes == (tmp_path / DATA_FILE).stat().st_size
    held = [name for spec in plan.tensors if spec.part in ("codes", "values") for name in spec.weights]
    assert sorted(held) == sorted(source.tensors)


def test_scales_are_widened_once_when_the_model_is_loaded(tmp_path: Path) -> None:
    for scales in ("int8", "float16"):
        folder = tmp_path / scales
        export_decoder(mixture(Scheme(4, 32, scales=scales), Scheme(4, 32, scales=scales)), folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        onnxruntime.InferenceSession(folder / MODEL_FILE, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(folder / "optimized.onnx", load_external_data=False).graph
        nodes = [node for node in graph.node if node.op_type == "QMoE"]
        assert len(nodes) == 2
        constants = {tensor.name for tensor in graph.initializer}
        assert all({node.input[3], node.input[6]} <= constants for node in nodes)


@given(experts=st.integers(1, 3), rows=st.integers(1, 4), group=st.sampled_from([16, 32]), asymmetric=st.booleans())
def test_rows_of_a_stored_tensor_are_those_of_its_weights(
    experts: int, rows: int, group: int, asymmetric: bool
) -> None:
    scheme, rng = Scheme(8, group, not asymmetric), np.random.default_rng(rows)
    names = tuple((f"{number}.gate", f"{number}.up") for number in range(experts))
    shapes = {name: (rows, 64) for pair in names for name in pair}
    tensors = {name: random_quantized(*shape, scheme, rng) for name, shape in shapes.items()}
    spec = expert_specs("fc1", names, (experts, 2 * rows, 64), scheme)[0]
    stored = np.stack([np.stack([tensors[name].codes for name in pair], 1).reshape(-1, 64) for pair in names])
    assert stored.shape == spec.shape
    found = dict(spec.rows_of(stored, shapes))
    assert found.keys() == tensors.keys()
    for name, codes in found.items():
        np.testing.assert_array_equal(codes, tensors[name].codes)


@pytest.mark.parametrize("by", [Scheme(4, 16, symmetric=False), Scheme(4, 32, symmetric=False)])
def test_smaller_groups_hold_the_same_values(by: Scheme) -> None:
    tensor = random_quantized(6, 64, Scheme(4, 32, symmetric=False), np.random.default_rng(0))
    np.testing.assert_array_equal(tensor.regrouped(by).dequantize(), tensor.dequantize())


@pytest.mark.parametrize(
    ("name", "scheme", "message"),
    [
        (
            "experts.5.up_proj", Scheme(4, 16),
            r"layers\.0\.mlp\.experts\.0\.gate_proj is int4-g32 and .*experts\.5\.up_proj is int4-g16: .*one scheme",
        ),
        ("experts.2.down_proj", None, r"experts\.0\.down_proj is int4-g32 and .*experts\.2\.down_proj is float"),
        (
            "down_proj", Scheme(8, 32),
            r"experts\.0\.gate_proj is int4-g32 and .*experts\.0\.down_proj is int8-g32: .*same number of bits",
        ),
    ],
)  # fmt: skip
def test_schemes_that_the_operator_cannot_have_are_named(
    name: str, scheme: Scheme | None, message: str, tmp_path: Path
) -> None:
    def scheme_for(tensor: str) -> Scheme | None:
        return (scheme if name in tensor else Scheme(4, 32)) if ".experts." in tensor else None

    source = quantized_model(scheme_for, **MOE)
    with pytest.raises(InputError, match=message):
        export_decoder(source, tmp_path / "qmoe")
    ids = some_ids(1, 5)
    found, _ = ExportedDecoder(source, tmp_path / "plain", accuracy_level=0, experts="plain").step(ids)
    assert relative_error(found, reference_logits(source, ids)) < 2e-5


def test_experts_of_odd_widths_stay_float(tmp_path: Path) -> None:
    source = mixture(W8A8, W8A8, moe_intermediate_size=24)
    with pytest.raises(InputError, match=r"experts\.gate_up_proj: experts 64 and 24 wide have no common group size"):
        export_decoder(source, tmp_path)


def test_stacked_matrices_are_named_as_transformers_names_them() -> None:
    layer = Layer.of(InMemoryWeights.random(**TWO_LAYERS).config, 2)
    found = expert_matrices(layer, lambda _name: None)
    assert found is not None
    assert [matrices.label for matrices in found] == [
        f"model.layers.2.mlp.experts.{role}_proj" for role in ("gate_up", "down")
    ]
    assert found[0].experts[3] == tuple(f"model.layers.2.mlp.experts.3.{part}_proj.weight" for part in ("gate", "up"))
    assert expert_matrices(Layer.of(InMemoryWeights.random().config, 0), lambda _name: None) is None


@pytest.mark.parametrize(("bits", "fixed"), [(2, ("QMoE",)), (4, ()), (8, ())])
def test_what_rounds_activations_is_known(bits: int, fixed: tuple[str, ...], tmp_path: Path) -> None:
    export_decoder(mixture(Scheme(bits, 32), Scheme(bits, 32)), tmp_path)
    assert ActivationRounding.read(tmp_path / MODEL_FILE) == ActivationRounding(fixed, switchable=True)


RECIPE = Recipe((Rule("*.experts.*", Scheme(4, 32)),), "rtn")


@pytest.mark.parametrize("experts", EXPERT_OPERATORS)
def test_a_dead_expert_is_named(experts: ExpertOperators, tmp_path: Path) -> None:
    source, name = mixture(Scheme(4, 32), Scheme(4, 32)), "model.layers.2.mlp.experts.3.up_proj.weight"
    broken = InMemoryWeights(source.config, source.tensors)
    whole = source.read_quantized(name)
    broken.tensors[name] = replace(whole, codes=np.full_like(whole.codes, 8))
    for model, status in ((source, "pass"), (broken, "fail")):
        folder = tmp_path / status
        export_decoder(model, folder, experts=experts)
        Manifest("onnx", "", RECIPE.to_json(), metrics={"experts": experts}).save(folder)
        found = check_dead_matrices(folder, source.config, source)
        assert (found.status, found.value) == (status, float(status == "fail"))
    assert f"{name.removesuffix('.weight')};" in found.reason


def test_every_weight_of_a_mixture_is_judged(tmp_path: Path) -> None:
    source = mixture(None, None)
    for name, shape in tensor_shapes(source.config).items():
        source.tensors[name] = np.zeros(shape, np.float32)
    export_decoder(source, tmp_path)
    Manifest("onnx", "", Recipe((), "float").to_json(), metrics={"experts": "qmoe"}).save(tmp_path)
    found = check_dead_matrices(tmp_path, source.config, InMemoryWeights.random(**TWO_LAYERS))
    assert found.value == len(source.tensors)


def test_other_operators_of_experts_are_refused(tmp_path: Path) -> None:
    Manifest("onnx", "", RECIPE.to_json(), metrics={"experts": "dense"}).save(tmp_path)
    with pytest.raises(InputError, match=r"metrics\.experts = 'dense': expected one of qmoe, plain"):
        _ = Manifest.load(tmp_path).experts
