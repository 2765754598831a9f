"""Second moments: the plain product, exactly symmetric, whatever the tiles and the threads."""

from __future__ import annotations

import pytest
import torch

from q3edge.calibration.rounding import moments
from q3edge.calibration.rounding.moments import Moments, add_products
from tests.helpers.calibration import correlated_inputs


def test_keeps_a_sample_of_held_out_tokens_if_asked() -> None:
    inputs = torch.arange(5000.0).view(-1, 1)
    plain, sums = Moments.empty(1), Moments.empty(1, keeps_samples=True)
    for found in (plain, sums):
        found.add(inputs, held_out=False)
        for part in torch.split(inputs, 100):
            found.add(part, held_out=True)
    kept = torch.cat(sums.sampled).flatten()
    assert torch.equal(kept[:7], torch.tensor([14.0, 31.0, 48.0, 65.0, 82.0, 99.0, 114.0]))
    assert len(plain.sampled) == 0
    assert (plain.held_out_tokens, sums.held_out_tokens) == (5000, 5000)


@pytest.mark.parametrize("tokens", [1, 16, 17, 18, 40])
def test_however_few_tokens_are_held_out_there_is_a_sample(tokens: int) -> None:
    sums = Moments.empty(1, keeps_samples=True)
    sums.add(torch.ones(tokens, 1), held_out=True)
    assert len(torch.cat(sums.sampled)) == -(-tokens // 17)


def test_a_sample_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_MOST_SAMPLES", 20)
    sums = Moments.empty(1, keeps_samples=True)
    for part in torch.split(torch.arange(5000.0).view(-1, 1), 100):
        sums.add(part, held_out=True)
    assert 20 <= sum(map(len, sums.sampled)) < 26


def naive_products(inputs: torch.Tensor) -> torch.Tensor:
    """Sum of x x^T token by token, float64."""
    total = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
    for x in inputs.double():
        total += torch.outer(x, x)
    return total


def assert_mirrored(total: torch.Tensor, inputs: torch.Tensor, tile: int) -> None:
    """Bit for bit between tiles, of which one is a copy; within one, a BLAS may sum x_i x_j and x_j x_i in any order.

    Two sums of T products differ by T times eps of the sum of their sizes (Higham 2002, section 3.1).
    """
    number = torch.arange(len(total)) // tile
    same_tile = number[:, None] == number
    difference = (total.double() - total.double().T).abs()
    assert (difference[~same_tile] == 0).all()
    sizes = inputs.double().abs().T @ inputs.double().abs()
    assert (difference <= len(inputs) * torch.finfo(torch.float32).eps * sizes).all()


@pytest.mark.parametrize("width", [1, 31, 64, 100])
@pytest.mark.parametrize("tile", [16, 32, 33, 384])
def test_equals_a_naive_sum_for_any_tiles(width: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_TILE", tile)
    inputs = correlated_inputs(90, width).float()
    total = torch.zeros(width, width)
    for part in torch.split(inputs, 40):
        add_products(total, part)
    expected = naive_products(inputs)
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert_mirrored(total, inputs, tile)


@pytest.mark.parametrize("width", [383, 384, 385, 576, 800])
def test_is_symmetric_around_the_edges_of_tiles(width: int) -> None:
    inputs, total = correlated_inputs(300, width).float(), torch.zeros(width, width)
    for part in torch.split(inputs, 130):
        add_products(total, part)
    assert_mirrored(total, inputs, moments._TILE)
    assert torch.linalg.eigvalsh(total.double()).min() > -1e-3 * total.diagonal().mean()


def test_the_number_of_threads_changes_no_bit() -> None:
    inputs = correlated_inputs(700, 800).float()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        total = torch.zeros(800, 800)
        for part in torch.split(inputs, 512):
            add_products(total, part)
        found.append(total)
        assert torch.get_num_threads() == threads
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_held_out_tokens_are_kept_apart() -> None:
    inputs = correlated_inputs(60, 20).float()
    sums = Moments.empty(20)
    sums.add(inputs[:40], held_out=False)
    sums.add(inputs[40:], held_out=True)
    torch.testing.assert_close(sums.hessian.double(), naive_products(inputs[:40]), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sums.held_out.double(), naive_products(inputs[40:]), rtol=1e-5, atol=1e-4)
