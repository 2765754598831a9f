"""Tuning: its gradients are those of plain back-propagation, and it keeps only what helps on held-out tokens."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, head_tensor
from q3edge.calibration.training import trained_layer, tune
from q3edge.calibration.training.trained_layer import Parameter
from q3edge.calibration.training.tune import ScaleTuner
from q3edge.quantization.scales import storable_scales
from q3edge.quantization.scheme import Scheme
from q3edge.reference.layer import decoder_layer
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize
from tests.helpers.models import InMemoryWeights
from tests.helpers.onnx_models import dequantized, quantized_model

SCHEME = Scheme(4, 16, symmetric=False)


def pair() -> tuple[InMemoryWeights, InMemoryWeights]:
    """A float model and a rounded one whose scales are a few percent off."""
    rounded = quantized_model(lambda name: SCHEME if "_proj" in name else None, seed=3)
    floats = dequantized(rounded)
    rng = np.random.default_rng(4)
    for name, tensor in rounded.tensors.items():
        if not isinstance(tensor, np.ndarray):
            factor = 1 + 0.05 * rng.standard_normal(tensor.scales.shape)
            scales = storable_scales(tensor.scales.astype(np.float32) * factor.astype(np.float32), tensor.scheme)
            rounded.tensors[name] = dataclasses.replace(tensor, scales=scales.astype(np.float16))
    return floats, rounded


def tokens(model: InMemoryWeights, rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.random.default_rng(5).integers(0, model.config.vocab_size, (rows, 24))


def naive_gradients(
    floats: InMemoryWeights, rounded: InMemoryWeights, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> dict[str, torch.Tensor]:
    """Gradients by every scale and norm, by autograd through the whole model at once."""
    leaves: dict[str, torch.Tensor] = {}

    def weight(source: InMemoryWeights, name: str) -> torch.Tensor:
        tensor = source.tensors[name]
        if isinstance(tensor, np.ndarray):
            values = torch.from_numpy(source.read(name)).clone()
            return leaves.setdefault(name, values.requires_grad_()) if name.endswith("norm.weight") else values
        leaf = leaves.setdefault(name, torch.from_numpy(tensor.scales).float().requires_grad_())
        unit = dataclasses.replace(tensor, scales=np.ones_like(tensor.scales)).dequantize()
        steps = torch.from_numpy(unit).view(*leaf.shape, -1)
        return (steps * leaf.unsqueeze(-1)).view(*tensor.shape)

    def logits(source: InMemoryWeights) -> torch.Tensor:
        config = source.config
        hidden = torch.from_numpy(source.read(EMBEDDING))[torch.from_numpy(ids)]
        rotary = RotaryTables.of(config, ids.shape[1])
        for layer in range(config.num_hidden_layers):
            weights = LayerWeights.by(partial(weight, source), Layer.of(source.config, layer))
            hidden = decoder_layer(hidden, weights, config, rotary)
        head = torch.from_numpy(source.read(head_tensor(config)))
        return normalize(hidden, weight(source, FINAL_NORM), config) @ head.T

    wanted = torch.log_softmax(logits(floats).detach(), -1)
    leaves.clear()
    own = torch.log_softmax(logits(rounded), -1)
    loss = (wanted.exp() * (wanted - own)).sum(-1).mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


def test_gradients_equal_those_of_plain_back_propagation(monkeypatch: pytest.MonkeyPatch) -> None:
    floats, rounded = pair()
    ids = tokens(floats, 5)
    found: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(Parameter, "step", lambda self, gradient, rate, number: found.setdefault(id(self), gradient))
    monkeypatch.setattr(trained_layer, "_PIECE_TOKENS", 48)  # several pieces, whose gradients are added
    monkeypatch.setattr(tune, "_LOGITS_AT_ONCE", 7)
    tuner = ScaleTuner(floats, rounded, ids, held_out=1)
    tuner.run(epochs=1)  # four rows are one batch
    order = ids[:4]
    for name, expected in naive_gradients(floats, rounded, order).items():
        gradient = found[id(tuner._parameters[name])]
        torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=float(expected.abs().max()) * 1e-4)


def test_it_recovers_scales_that_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_layer, "BATCH_TOKENS", 96)
    floats, rounded = pair()
    tuned = ScaleTuner(floats, rounded, tokens(floats, 36), held_out=4).run(epochs=3, rate=3e-3)
    assert tuned.steps == 24
    assert tuned.kl_after < 0.8 * tuned.kl_before
    assert all(scales.dtype == np.float16 and np.isfinite(scales).all() for scales in tuned.scales.values())


def test_what_does_not_help_is_not_kept() -> None:
    floats, rounded = pair()
    tuned = ScaleTuner(floats, rounded, tokens(floats, 6), held_out=2).run(epochs=1, rate=10.0)
    assert tuned.kl_after == tuned.kl_before
    for name, scales in tuned.scales.items():
        np.testing.assert_array_equal(scales, rounded.read_quantized(name).scales)
