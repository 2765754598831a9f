"""The head is solved for what the model really multiplies it by; a tied matrix for both of its uses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, head_tensor
from q3edge.calibration.layers.tables import ReplacedHead, embedding_share, solve_head
from q3edge.calibration.rounding.moments import Moments
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.divergence import mean_kl
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.reference.weights import LayerWeights
from tests.helpers.calibration import calibrate, correlated_inputs, outlier_model, output_loss, random_tokens
from tests.helpers.models import InMemoryWeights

INT4 = Scheme(4, 16, False)
TOKENS = random_tokens(24, 32)


def moments_of(inputs: torch.Tensor) -> Moments:
    """Moments of which the last quarter is held out."""
    moments = Moments.empty(inputs.shape[1])
    moments.add(inputs[: len(inputs) * 3 // 4].float(), held_out=False)
    moments.add(inputs[len(inputs) * 3 // 4 :].float(), held_out=True)
    return moments


def untied(source: InMemoryWeights, **tables: NDArray[np.float32] | QuantizedTensor) -> InMemoryWeights:
    """The same model untied, with embedding or head replaced where `tables` gives them."""
    config = dataclasses.replace(source.config, tie_word_embeddings=False)
    return InMemoryWeights(config, {LM_HEAD: source.tensors[EMBEDDING], **source.tensors, **tables})


def kl(source: InMemoryWeights, other: InMemoryWeights, token_ids: NDArray[np.int64]) -> float:
    target, own = (hidden_states(model, token_ids).flatten(0, 1) for model in (source, other))
    return mean_kl(LogitsHead(source), target, LogitsHead(other), [own])[0]


@pytest.mark.parametrize("tied", [True, False])
def test_a_calibrated_head_is_nearer_to_the_float_one(tied: bool, tmp_path: Path) -> None:
    source = outlier_model(tie_word_embeddings=tied)
    name = head_tensor(source.config)
    schemes = {**dict.fromkeys(source.tensors), name: INT4}
    results, _ = calibrate(source, schemes, TOKENS, tmp_path)
    assert [list(result.tensors) for result in results] == [[], [], [name]]
    report = results[-1].reports[name]
    assert report.loss < report.rounding_loss
    assert report.scaling_exponent == 0
    nearest, solved = round_to_nearest(source.read(name), INT4), results[-1].tensors[name]
    both = untied(source)
    unseen = random_tokens(8, 32, seed=9)

    def damage(use: str, table: QuantizedTensor) -> float:
        return kl(both, untied(both, **{use: table}), unseen)

    assert damage(LM_HEAD, solved) < (0.8 if tied else 0.3) * damage(LM_HEAD, nearest)
    if tied:  # most of the damage of this one, so little of it may be traded for the head's
        assert damage(EMBEDDING, solved) < 1.25 * damage(EMBEDDING, nearest)


@pytest.mark.parametrize("share", [0.0, 1.0, 1e6])
def test_the_loss_is_that_of_the_head_and_the_embeddings_share(share: float) -> None:
    source = outlier_model()
    table = torch.from_numpy(source.read(EMBEDDING))
    moments = moments_of(correlated_inputs(600, source.config.hidden_size, outliers=3))
    before = moments.hessian.clone()
    found, report = solve_head(source, INT4, moments, share)
    assert torch.equal(moments.hessian, before)
    held_out = moments.held_out + share * moments.held_out.diagonal().mean() * torch.eye(len(before))
    power = output_loss(table, torch.zeros_like(table), held_out)
    loss, nearest = (
        output_loss(table, torch.from_numpy(tensor.dequantize()), held_out) / power
        for tensor in (found, round_to_nearest(table.numpy(), INT4))
    )
    assert report.loss == pytest.approx(loss, rel=1e-3)
    assert report.rounding_loss == pytest.approx(nearest, rel=1e-3)
    assert loss <= nearest * (1 + 1e-5)
    if share > 1:  # the embedding alone: no channel can compensate another
        assert loss > 0.8 * nearest
    else:
        assert loss < (0.6 if share == 0 else 0.85) * nearest


def test_an_embeddings_share_is_the_ratio_of_the_damage_as_either() -> None:
    source = outlier_model(4)
    layers = [LayerWeights.read(source, layer) for layer in range(source.config.num_hidden_layers)]
    rounded = round_to_nearest(source.read(EMBEDDING), INT4)
    unseen = TOKENS[-4:]
    as_embedding, as_head = (kl(source, untied(source, **{name: rounded}), unseen) for name in (EMBEDDING, LM_HEAD))
    share = embedding_share(source, layers, TOKENS, INT4)
    assert math.log2(share) == round(math.log2(share))
    assert share / 2**0.51 < as_embedding / as_head < share * 2**0.51
    assert embedding_share(untied(source), layers, TOKENS, INT4) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_rounded_head_changes_nothing_else(tied: bool) -> None:
    source = outlier_model(tie_word_embeddings=tied)
    name = head_tensor(source.config)
    table = round_to_nearest(source.read(name), INT4)
    model = ReplacedHead(source, table)
    assert np.array_equal(model.read(name), table.dequantize())
    assert np.array_equal(model.read(name, slice(5, 9)), table.dequantize()[5:9])
    assert np.array_equal(model.read_quantized(name, slice(5, 9)).codes, table.codes[5:9])
    assert model.scheme(name) == INT4
    for other in source.tensors:
        if other != name:
            assert np.array_equal(model.read(other), source.read(other))
            assert model.scheme(other) is None
