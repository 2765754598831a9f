"""Baselines: each rounds as its library says, weights and activations, and nothing else of the reference changes."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from q3edge.architecture.tensors import tensor_shapes
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import ResourceError
from q3edge.evaluation import baselines
from q3edge.evaluation.baselines import BASELINES, Baseline, BaselineDecoder, quiet
from q3edge.evaluation.distance.streams import decoder_logits
from q3edge.evaluation.distance.windows import Window
from q3edge.machine.extras import install_line
from q3edge.pipeline.measure import speed
from q3edge.pipeline.measure.speed import baseline_speed
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.reference.weights import read_tensor
from tests.helpers.models import MOE, InMemoryWeights


def needs(baseline: Baseline) -> Baseline:
    if baseline.package != "torch":
        pytest.importorskip(baseline.package)
    return baseline


def windows(count: int, length: int, seed: int = 0) -> list[Window]:
    ids = np.random.default_rng(seed).integers(0, 320, (count, length + 1))
    return [Window("text", row) for row in ids]


def logits(decoder: BaselineDecoder, window: Window) -> np.ndarray:
    return np.concatenate(list(decoder_logits(decoder, window.inputs)))


def float_logits(source: InMemoryWeights, window: Window) -> np.ndarray:
    hidden = hidden_states(source, window.inputs[None])[0]
    return LogitsHead(source).logits(hidden).numpy()


def kl(expected: np.ndarray, found: np.ndarray) -> float:
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (expected, found))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_with_exact_products_the_reference_stays_as_it_is() -> None:
    def exact(weights: torch.Tensor) -> torch.nn.Module:
        return baselines._float_linear(weights)

    same = Baseline("same", "", "torch", exact, lambda rows, width: 4 * rows * width, 4, rounds_head=True)
    source = InMemoryWeights.random()
    found = windows(3, 150)
    decoder = BaselineDecoder(same, source, found)
    for window in found:
        expected = float_logits(source, window)  # of one window at a time, which a BLAS may sum in another order
        assert np.linalg.norm(logits(decoder, window) - expected) < 1e-5 * np.linalg.norm(expected)
    assert same.model_bytes(source.config) == 4 * (
        sum(map(math.prod, tensor_shapes(source.config).values())) + 320 * source.config.hidden_size
    )


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_rounds_every_matrix_once_a_batch(name: str) -> None:
    baseline = needs(BASELINES[name])
    made: list[tuple[int, ...]] = []

    def counting(weights: torch.Tensor) -> baselines.Product:
        made.append(tuple(weights.shape))
        return baseline.make(weights)

    source = InMemoryWeights.random()
    found = windows(2, 140)
    decoder = BaselineDecoder(dataclasses.replace(baseline, make=counting), source, found)
    assert len(made) == 7 * source.config.num_hidden_layers
    distances = [kl(float_logits(source, window), logits(decoder, window)) for window in found]
    assert all(1e-6 < distance < 1 for distance in distances)
    if not baseline.rounds_head:
        assert len(made) == 7 * source.config.num_hidden_layers


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_are_those_of_bitsandbytes(kind: str) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    weights = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type=kind)
    expected = functional.dequantize_4bit(codes, state)
    with quiet(), torch.no_grad():
        product: Any = BASELINES[kind].make(weights)
        made = product.weight.quant_state
        assert torch.equal(product.weight.data, codes)
        assert torch.equal(made.absmax, state.absmax)
        assert (made.quant_type, made.blocksize) == (kind, 64)
        found = product(torch.eye(128))
    # Some of its kernels round a group's maximum, the code and their product to bfloat16; with one of a row's inputs 1
    # and the others 0 the sum has one term.
    unit_roundoff = torch.finfo(torch.bfloat16).eps / 2
    assert ((found - expected.T).abs() <= ((1 + unit_roundoff) ** 3 - 1) * expected.T.abs()).all()
    assert BASELINES[kind].weight_bytes(64, 128) == codes.numel() + 4 * state.absmax.numel()


def test_bitsandbytes_int8_rounds_activations_too() -> None:
    pytest.importorskip("bitsandbytes")
    weights = torch.eye(64)
    values = torch.linspace(-1, 1, 64)[None]
    with quiet(), torch.no_grad():
        found = BASELINES["bnb-int8"].make(weights)(values)
    steps = found * 127
    assert (steps - steps.round()).abs().max() < 0.1  # on the grid of int8, to float16's precision
    assert (found - values).abs().max() < 0.02


def test_torch_int8_has_one_scale_a_matrix() -> None:
    weights = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():
        found = BASELINES["torch-int8"].make(weights)(torch.eye(64)).T
    assert (found - weights).abs().max() < 2 * weights.abs().max() / 127
    assert not torch.equal(found, weights)


def test_a_window_that_was_not_announced_is_refused() -> None:
    decoder = BaselineDecoder(BASELINES["torch-int8"], InMemoryWeights.random(), windows(1, 20))
    with pytest.raises(ValueError, match="other windows"):
        decoder.forward(np.array([[1, 2, 3]]), decoder.new_cache(3))


def test_the_last_position_alone_is_the_last_of_all() -> None:
    found = windows(1, 20)
    decoder = BaselineDecoder(BASELINES["torch-int8"], InMemoryWeights.random(), found)
    inputs = found[0].inputs[None]
    last = decoder.forward(inputs, decoder.new_cache(20))
    assert last.shape[:2] == (1, 1)
    np.testing.assert_allclose(last[0, 0], decoder.forward(inputs, decoder.new_cache(20), keep=0)[0, -1], atol=0.2)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ResourceError, match=re.escape(install_line("baselines"))):
        BASELINES["nf4"].check()


def test_speed_is_of_products_only() -> None:
    speed = baseline_speed(BASELINES["torch-int8"], InMemoryWeights.random(), threads=1)
    assert speed.products_only
    assert 0 < speed.tokens_per_second.low <= speed.tokens_per_second.median <= speed.tokens_per_second.high
    assert speed.peak_bytes is None


def test_of_experts_only_those_of_one_token_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = InMemoryWeights.random(**MOE)
    read: list[str] = []

    def noted(source: WeightSource, name: str) -> torch.Tensor:
        read.append(name)
        return read_tensor(source, name)

    monkeypatch.setattr(speed, "read_tensor", noted)
    baseline_speed(BASELINES["torch-int8"], source, threads=1)
    experts = {name.split(".experts.")[1].split(".")[0] for name in read if ".experts." in name}
    assert len(experts) == MOE["num_experts_per_tok"]
    assert sum(".experts." in name for name in read) == 2 * 3 * len(experts)
