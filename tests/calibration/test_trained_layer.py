"""Batches and rates: every row is seen once an epoch, few rows make smaller batches, rates fall to nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration.trained_layer import BATCH_TOKENS, Parameter, batches, schedule


@pytest.mark.parametrize(("rows", "length"), [(112, 512), (7, 4096), (35, 32), (1, 16)])
@pytest.mark.parametrize("at_least", [1, 28])
def test_every_row_is_seen_once_an_epoch(rows: int, length: int, at_least: int) -> None:
    found = batches(rows, length, 3, at_least=at_least)
    seen = np.concatenate(found)
    np.testing.assert_array_equal(np.sort(seen[:rows]), np.arange(rows))
    np.testing.assert_array_equal(np.bincount(seen), np.full(rows, 3))
    assert all(len(batch) * length <= max(BATCH_TOKENS, length) for batch in found)
    assert len(found) >= 3 * min(at_least, rows)


@pytest.mark.parametrize("total", [1, 2, 7, 112])
def test_the_rate_rises_then_falls_to_nothing(total: int) -> None:
    rates = [schedule(number, total) for number in range(1, total + 1)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert max(rates) <= 1
    if total == 112:
        assert max(rates) > 0.98
        assert rates[-1] < 0.01


def test_a_parameter_takes_the_first_step_of_adam() -> None:
    parameter = Parameter(torch.tensor([2.0, -4.0, 0.5]), stored_as_float16=False)
    parameter.step(torch.tensor([0.3, 0.3, 0.0]), 0.01, 1)
    torch.testing.assert_close(parameter.value, torch.tensor([1.98, -4.04, 0.5]))
