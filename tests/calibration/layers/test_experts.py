"""Experts: solved for their own tokens, shrunk towards all where these are few, and routed as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from q3edge.architecture.layer import Layer
from q3edge.calibration.layers import experts as solving
from q3edge.calibration.layers import input_group
from q3edge.calibration.layers.predicted_work import LayerWork
from q3edge.calibration.layers.routed import ExpertInputs
from q3edge.calibration.layers.streams import StateStream, Tokens
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.progress import report_to
from q3edge.quantization.scheme import Scheme
from q3edge.reference.blocks.experts import Routing
from q3edge.reference.parallel import torch_threads
from tests.calibration.layers.test_layer import Solved
from tests.helpers.calibration import (
    Counted,
    calibrate,
    killed_after_the_first_layer,
    kl,
    linear_schemes,
    log_probabilities,
    outlier_model,
    random_tokens,
    result_bytes,
    rounded_model,
)
from tests.helpers.models import MOE, InMemoryWeights

INT4, INT8 = Scheme(4, 32), Scheme(8, 16)
TRAINING = random_tokens(40, 32)
ROUTER = "model.layers.0.mlp.gate.weight"


def expert_model(seed: int = 0, **overrides: Any) -> InMemoryWeights:
    """A random mixture of experts with outlier channels."""
    return outlier_model(seed, **{**MOE, **overrides})


def unused(source: InMemoryWeights, *experts: int) -> InMemoryWeights:
    """The model with a router that sends no token of its first layer to some experts, and scores them alike."""
    router = source.read(ROUTER)
    others = [number for number in range(len(router)) if number not in experts]
    router[others[1]] = -router[others[0]]  # one of the two is above any zero
    router[others[2]], router[others[3]] = router[others[0]] * 2, -router[others[0]] * 2
    router[list(experts)] = 0
    return source


@pytest.fixture
def _scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the inputs of every group, whether it pays or not."""
    monkeypatch.setattr(input_group, "EXPONENTS", (0.5,))


@pytest.mark.usefixtures("_scaled")
@pytest.mark.parametrize("keep_float", [(), ("gate_proj", "up_proj"), ("up_proj",), ("down_proj",)], ids="+".join)
def test_folding_keeps_the_function_and_the_routing(keep_float: tuple[str, ...], tmp_path: Path) -> None:
    source = expert_model(1)
    schemes = linear_schemes(source, Scheme(8, 16, False), keep_float=("self_attn", *keep_float))
    found = Solved(source, schemes, tmp_path)
    assert found.error(found.scaled_layer) < 1e-5
    assert found.error(found.rounded()) < 0.03
    assert (ROUTER in found.result.floats) == (len(keep_float) < 2)
    assert set(found.result.tensors) == {
        name for name, s in schemes.items() if s and name.startswith("model.layers.0.")
    }
    rounded = found.rounded()
    for field in Layer.of(source.config, 0).tensors:
        wanted = found.scaled_layer[field]
        assert (rounded[field] - wanted).norm() < 0.02 * wanted.norm(), field
    work = LayerWork.of(source.config, Layer.of(source.config, 0), schemes, found.tokens)
    assert sum(found.advanced) == work.solving
    assert found.left == ["after", "before"]  # temporary files are gone
    for expected, states in zip(found.run(rounded), found.states):
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("enough", [0, 100])
def test_an_experts_moments_are_of_its_tokens_by_their_shares_and_of_all_where_these_are_few(
    enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "ENOUGH", enough)
    source = expert_model(2)
    tokens = Tokens(40, 32, 5, False)
    solver = solving.ExpertsSolver(None, Layer.of(source.config, 0).blocks[-1], tokens)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    values, shares = torch.randn(300, 8, generator=generator), torch.rand(300, generator=generator)
    chosen = torch.randperm(tokens.count, generator=generator)[:300].sort().values
    everything = torch.randn(tokens.count, 8, generator=generator)
    inputs = ExpertInputs(chosen, shares, values)
    whole = ExpertInputs(torch.arange(tokens.count), torch.ones(tokens.count), everything)
    schemes = {"up_proj": INT4}
    prior = solver._prior(whole, everything, schemes)
    assert prior.solved_for == 35 * 32
    found, seen = solver._shrunk(inputs, values, schemes, prior), chosen < 35 * 32
    factor = float(shares[seen].square().mean()) * max(0, enough * 8 - int(seen.sum())) / (35 * 32)
    for moments, kept, rows in (
        (found.hessian, seen, everything[: 35 * 32]),
        (found.held_out, ~seen, everything[35 * 32 :]),
    ):
        own = sum(s**2 * v.outer(v) for v, s in zip(values[kept], shares[kept]))
        torch.testing.assert_close(moments, own + factor * rows.T @ rows, rtol=1e-4, atol=1e-3)


def test_an_expert_that_no_token_reaches_is_solved_for_all_of_them(tmp_path: Path) -> None:
    source = unused(expert_model(3), 5, 6)
    found = Solved(source, linear_schemes(source, INT4, keep_float=("self_attn",)), tmp_path)
    for number in (5, 6):
        for matrix in ("gate", "up", "down"):
            name = f"model.layers.0.mlp.experts.{number}.{matrix}_proj.weight"
            assert 0 < found.result.reports[name].loss < found.result.reports[name].rounding_loss


@pytest.mark.parametrize("reconstruct", [False, True], ids=["solved", "reconstructed"])
def test_it_is_nearer_to_the_float_model_than_rounding_to_nearest(reconstruct: bool, tmp_path: Path) -> None:
    source = expert_model(4, num_experts_per_tok=8)  # all of them: a rank that changes would hide everything else
    schemes = linear_schemes(source, INT4)
    results, _ = calibrate(source, schemes, TRAINING, tmp_path, reconstruct=reconstruct)
    nearest = {
        name: values if schemes[name] is None else round_to_nearest(source.read(name), INT4)
        for name, values in source.tensors.items()
    }
    unseen = random_tokens(8, 32, seed=99)
    expected = log_probabilities(source, unseen)
    solved = kl(expected, log_probabilities(rounded_model(source, results), unseen))
    assert solved < 0.5 * kl(expected, log_probabilities(InMemoryWeights(source.config, nearest), unseen))


def test_the_report_counts_tokens_and_compares_the_routing(tmp_path: Path) -> None:
    source = expert_model(5)
    results, _ = calibrate(source, linear_schemes(source, INT8), TRAINING, tmp_path)
    for result in results[:2]:
        assert result.experts is not None
        assert sum(result.experts.tokens) == 2 * TRAINING.size
        assert 0.8 < result.experts.agreement <= 1
    float_results, _ = calibrate(source, linear_schemes(source, None), TRAINING, tmp_path / "float")
    assert [r.experts.agreement for r in float_results[:2] if r.experts] == [1.0, 1.0]


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    source = expert_model(6, num_hidden_layers=1)
    found = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            results, states = calibrate(source, linear_schemes(source, INT4), TRAINING, tmp_path / str(threads))
        found.append((result_bytes(results), states.numpy().tobytes()))
    assert found[0] == found[1] == found[2]


def test_what_was_killed_goes_on_to_the_same_bits_and_progress_ends_at_its_total(tmp_path: Path) -> None:
    source = expert_model(7, num_hidden_layers=3, decoder_sparse_step=2)
    schemes = linear_schemes(source, INT4)
    expected, states = calibrate(source, schemes, TRAINING, tmp_path / "whole")
    with killed_after_the_first_layer():
        calibrate(source, schemes, TRAINING, tmp_path / "killed")
    (tmp_path / "killed" / "hidden-0001.bin").unlink()  # the states of layer 1 are made again
    found, again = calibrate(source, schemes, TRAINING, tmp_path / "killed")
    assert result_bytes(found) == result_bytes(expected)
    assert torch.equal(again, states)
    assert [result.experts for result in found] == [result.experts for result in expected]


def test_tokens_of_a_stream_are_read_and_added_to_one_by_one(tmp_path: Path) -> None:
    tokens = Tokens(4, 5, 1, False)
    stream = StateStream(tmp_path / "states.bin", tokens, 3)
    values = torch.arange(60, dtype=torch.float32).view(4, 5, 3)
    stream.write(slice(0, 4), values)
    chosen = torch.tensor([0, 7, 19])
    assert torch.equal(stream.gather(chosen), values.view(20, 3)[chosen])
    stream.add(chosen, torch.ones(3, 3))
    expected = values.view(20, 3).clone()
    expected[chosen] += 1
    assert torch.equal(stream.read(slice(0, 4)).view(20, 3), expected)
    stream.delete()


def test_progress_of_experts_ends_at_its_total(tmp_path: Path) -> None:
    source = expert_model(8)
    counted = Counted()
    with report_to(counted):
        calibrate(source, linear_schemes(source, INT4), TRAINING, tmp_path)
    assert counted.done == counted.total


def test_unused_experts_are_unused() -> None:
    source = unused(expert_model(3), 5, 6)
    moe = source.config.moe
    assert moe is not None
    normed = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32))
    counts = Routing.of(normed, torch.from_numpy(source.read(ROUTER)), moe).counts(8)
    assert counts[5] == counts[6] == 0
