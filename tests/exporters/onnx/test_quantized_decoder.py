"""Quantized graphs compute what their dequantized weights mean; W8A8 treats every token on its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MODEL_FILE
from q3edge.calibration.layers.input_group import token_rounding_errors
from q3edge.checkpoint import open_quantized_model
from q3edge.checkpoint.compressed_tensors import QuantizedWriter
from q3edge.errors import UsageError
from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.exporters.onnx.export import export_decoder
from q3edge.exporters.onnx.external_data import ExternalData
from q3edge.exporters.onnx.linear import Matrices
from q3edge.quantization.packing import pack_blocks
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from tests.helpers.models import InMemoryWeights, tiny_config
from tests.helpers.onnx_models import (
    ExportedDecoder,
    dequantized,
    quantized_model,
    random_quantized,
    relative_error,
    session,
)

A8 = Scheme(8, None, activations="int8_per_token")
TABLE = Scheme(8, 32)


def uniform(scheme: Scheme, name: str) -> Scheme:
    return TABLE if "embed" in name or "lm_head" in name else scheme


def mixed(name: str) -> Scheme | None:
    """q/k/v and gate/up of different schemes, float in between, and a fused pair."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    return {
        "q_proj": Scheme(4, 32), "k_proj": Scheme(8, 16, symmetric=False), "v_proj": None, "o_proj": Scheme(2, 16),
        "gate_proj": Scheme(4, 64, symmetric=False), "up_proj": Scheme(4, 64, symmetric=False), "down_proj": None,
        "embed_tokens": Scheme(4, 16, symmetric=False), "lm_head": Scheme(8, 64),
    }[module]  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(4, 32), Scheme(4, 16, symmetric=False), Scheme(8, 64), Scheme(2, 32, symmetric=False),
        Scheme(4, 32, symmetric=False, scales="float16"), Scheme(8, 64, scales="float16"), None,
    ],
    ids=str,
)  # fmt: skip
def test_equals_the_float_graph_of_the_dequantized_weights(tmp_path: Path, scheme: Scheme | None, tied: bool) -> None:
    """scheme None: the mixed recipe. Activations stay float32 (accuracy level 0)."""
    recipe = mixed if scheme is None else lambda name: uniform(scheme, name)
    source = quantized_model(recipe, tie_word_embeddings=tied)
    found = ExportedDecoder(source, tmp_path / "quantized", accuracy_level=0)
    expected = ExportedDecoder(dequantized(source), tmp_path / "float")
    ids = np.random.default_rng(0).integers(0, 320, (2, 9))
    prefill, past = found.step(ids)
    reference, float_past = expected.step(ids)
    assert relative_error(prefill, reference) < 1e-5
    decoded, _ = found.step(ids[:, :1], past=past)
    reference, _ = expected.step(ids[:, :1], past=float_past)
    assert relative_error(decoded, reference) < 1e-5


def test_accuracy_level_4_rounds_activations_a_little(tmp_path: Path) -> None:
    source = quantized_model(lambda name: uniform(Scheme(4, 32), name))
    ids = np.random.default_rng(0).integers(0, 320, (1, 9))
    exact, _ = ExportedDecoder(source, tmp_path / "0", accuracy_level=0).step(ids)
    rounded, _ = ExportedDecoder(source, tmp_path / "4", accuracy_level=4).step(ids)
    assert 1e-4 < relative_error(rounded, exact) < 0.1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_and_float16_scales_are_carried_bit_for_bit(tmp_path: Path, bits: int, symmetric: bool) -> None:
    """As other tools round them: from a quantized checkpoint into the ONNX files nothing is rounded again."""
    scheme = Scheme(bits, 32, symmetric, scales="float16")
    source = quantized_model(lambda name: scheme if "layers" in name else None)
    tensors = {name: tensor for name, tensor in source.tensors.items() if isinstance(tensor, QuantizedTensor)}
    schemes = {name: source.scheme(name) for name in source.tensors}
    (tmp_path / "q").mkdir()
    with QuantizedWriter(tmp_path / "q", tiny_config(), schemes, dict.fromkeys(schemes, "F32")) as writer:
        for name in schemes:
            if name in tensors:
                writer.add(name, tensors[name])
            else:
                writer.add_float(name, source.read(name))
    with open_quantized_model(tmp_path / "q") as checkpoint:
        assert {name: checkpoint.scheme(name) for name in checkpoint.names()} == schemes
        export_decoder(checkpoint, tmp_path)
    stored = ir.load(tmp_path / MODEL_FILE).graph.initializers
    down = {name: tensor for name, tensor in tensors.items() if name.endswith("down_proj.weight")}
    assert len(down) == 2
    for name, tensor in down.items():
        label = name.removesuffix(".weight")
        parts = {part: stored[f"{label}.{part}"].const_value for part in ("codes", "scales")}
        assert parts["codes"] is not None
        assert parts["scales"] is not None
        np.testing.assert_array_equal(parts["codes"].numpy(), pack_blocks(tensor))
        np.testing.assert_array_equal(parts["scales"].numpy(), tensor.scales, strict=True)
        assert (f"{label}.zero_points" in stored) != symmetric
        assert f"{label}.exponents" not in stored


def test_an_embedding_cannot_have_per_token_activations(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"embed_tokens.weight: int8-channel-a8 is for linear layers"):
        export_decoder(quantized_model(lambda _name: A8), tmp_path)


class LinearLayer:
    """q/k/v of one layer as the exporter emits them: x -> q, k, v."""

    NAMES = tuple(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")

    def __init__(self, folder: Path, scheme: Scheme) -> None:
        self.config = Qwen3Config.from_dict(tiny_config(hidden_size=96))
        shapes = dict(zip(self.NAMES, (128, 64, 64)))
        rng = np.random.default_rng(3)
        self.weights = {name: random_quantized(rows, 96, scheme, rng) for name, rows in shapes.items()}
        x = ir.val("x", ir.DataType.FLOAT, ["batch", "tokens", 96])
        outputs = [ir.val(name, ir.DataType.FLOAT, ["batch", "tokens", None]) for name in "qkv"]
        builder = GraphBuilder()
        with ExternalData(folder / "weights") as data:
            source = InMemoryWeights(self.config, self.weights)
            matrices = Matrices(builder, source, data, 4, lambda _count: None)
            for output, value in zip(outputs, matrices.linears(x, self.NAMES)):
                builder.op_into([output], "Identity", value)
        ir.save(builder.model([x], outputs, "linear"), folder / "model.onnx")
        self.session = session(folder / "model.onnx")

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate(self.session.run(None, {"x": x}), axis=-1)

    def reference(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """W8A8 in exact integers, token by token."""
        result = np.empty((*x.shape[:2], sum(w.shape[0] for w in self.weights.values())))
        codes = np.concatenate([w.codes for w in self.weights.values()]).astype(np.int64) - 128
        scales = np.concatenate([w.scales for w in self.weights.values()]).astype(np.float64)[:, 0]
        for position in np.ndindex(*x.shape[:2]):
            token = x[position].astype(np.float64)
            step = np.abs(token).max() / 127
            rounded = np.rint(token / step if step else token).astype(np.int64)
            result[position] = (codes @ rounded) * scales * step
        return result


@pytest.fixture
def w8a8(tmp_path: Path) -> LinearLayer:
    return LinearLayer(tmp_path, A8)


def tokens_with_outliers() -> NDArray[np.float32]:
    """[2, 7, 96]: ordinary tokens, one with a massive activation, one tiny, one all zero."""
    x = np.random.default_rng(0).standard_normal((2, 7, 96)).astype(np.float32)
    x[0, 2, 5] = 3000
    x[1, 0] *= 1e-6
    x[1, 3] = 0
    return x


def test_w8a8_equals_exact_integer_arithmetic(w8a8: LinearLayer) -> None:
    x = tokens_with_outliers()
    found, expected = w8a8(x), w8a8.reference(x)
    size = np.maximum(np.abs(expected).max(axis=-1), 1e-30)  # an error is relative to its own token
    assert (np.abs(found - expected).max(axis=-1) / size).max() < 1e-5


def test_w8a8_loses_what_calibration_takes_it_to_lose(w8a8: LinearLayer) -> None:
    x = tokens_with_outliers()
    added = token_rounding_errors(torch.from_numpy(x).flatten(0, 1)).view(x.shape).numpy()
    weights = np.concatenate([w.dequantize() for w in w8a8.weights.values()]).astype(np.float64)
    found, expected = w8a8(x), (x.astype(np.float64) + added) @ weights.T
    size = np.maximum(np.abs(expected).max(axis=-1), 1e-30)
    assert (np.abs(found - expected).max(axis=-1) / size).max() < 1e-5


def test_w8a8_is_close_to_float_for_every_token(w8a8: LinearLayer) -> None:
    """An outlier in one token costs the others nothing (a single scale per call gives them errors above 1)."""
    x = tokens_with_outliers()
    exact = x.astype(np.float64) @ np.concatenate([w.dequantize() for w in w8a8.weights.values()]).T
    errors = np.abs(w8a8(x) - exact).max(axis=-1) / np.maximum(np.abs(exact).max(axis=-1), 1e-30)
    ordinary = np.ones((2, 7), bool)
    ordinary[0, 2] = False
    assert errors[ordinary].max() < 0.02


def test_w8a8_of_a_token_does_not_depend_on_the_others(w8a8: LinearLayer) -> None:
    x = tokens_with_outliers()
    together = w8a8(x)
    for batch, token in np.ndindex(2, 7):
        alone = w8a8(x[batch : batch + 1, token : token + 1])
        np.testing.assert_array_equal(alone[0, 0], together[batch, token])


def test_w8a8_prefill_equals_decode(tmp_path: Path) -> None:
    model = ExportedDecoder(quantized_model(lambda name: uniform(A8, name)), tmp_path, accuracy_level=0)
    ids = np.random.default_rng(0).integers(0, 320, (1, 8))
    prefill, _ = model.step(ids)
    past, parts = None, []
    for token in range(8):
        logits, past = model.step(ids[:, token : token + 1], past=past)
        parts.append(logits)
    # Not bit for bit: attention sums in another order, and a value on a rounding boundary may fall either way.
    assert relative_error(np.concatenate(parts, axis=1), prefill) < 1e-2


def test_linears_of_one_scheme_are_one_operator(tmp_path: Path) -> None:
    for scheme, operator in ((Scheme(4, 32), "MatMulNBits"), (A8, "MatMulIntegerToFloat")):
        (tmp_path / operator).mkdir()
        LinearLayer(tmp_path / operator, scheme)
        nodes = [node.op_type for node in ir.load(tmp_path / operator / "model.onnx").graph]
        assert nodes.count(operator) == 1
