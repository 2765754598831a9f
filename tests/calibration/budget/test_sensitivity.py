"""Cost of a scheme group: the KL of the model in which it alone is rounded, computed here by another path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.architecture.tensors import head_tensor
from q3edge.calibration.budget import sensitivity
from q3edge.calibration.budget.sensitivity import Sensitivity
from q3edge.calibration.layers.input_group import Solution
from q3edge.calibration.layers.scheme_groups import SchemeGroup, scheme_groups
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.progress import report_to
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.divergence import mean_kl
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.calibration import Counted, kl, log_probabilities, outlier_model, random_tokens
from tests.helpers.models import MOE, InMemoryWeights

FOUR, TWO, EIGHT = Scheme(4, 32, False), Scheme(2, 16, False), Scheme(8, 32)
WIDTHS = (TWO, FOUR, EIGHT, None)
HELD_OUT = 2
MODELS: dict[str, dict[str, Any]] = {
    "tied": {}, "untied": {"tie_word_embeddings": False}, "experts": {**MOE, "num_experts_per_tok": 8},
}  # fmt: skip


def kl_of_models(source: InMemoryWeights, other: InMemoryWeights, token_ids: NDArray[np.int64]) -> float:
    return kl(log_probabilities(source, token_ids), log_probabilities(other, token_ids))


def rounded(source: InMemoryWeights, group: SchemeGroup, scheme: Scheme) -> InMemoryWeights:
    changed = {name: round_to_nearest(source.read(name), scheme) for name in group.tensors}
    return InMemoryWeights(source.config, {**source.tensors, **changed})


def measure(source: InMemoryWeights, tokens: NDArray[np.int64], folder: Path) -> Mapping[SchemeGroup, list[float]]:
    widths = dict.fromkeys(scheme_groups(source.config), WIDTHS)
    return Sensitivity(source, widths, tokens, HELD_OUT, folder).run()


@pytest.mark.parametrize("overrides", MODELS.values(), ids=MODELS.keys())
def test_a_group_costs_the_kl_of_the_model_in_which_it_alone_is_rounded(
    overrides: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearest(weights: Mapping[str, torch.Tensor], schemes: Mapping[str, Scheme], *_: Any) -> Solution:
        tensors = {name: round_to_nearest(matrix.numpy(), schemes[name]) for name, matrix in weights.items()}
        return Solution(tensors, torch.ones(next(iter(weights.values())).shape[1]), {})

    def nearest_head(source: InMemoryWeights, scheme: Scheme, *_: Any) -> tuple[QuantizedTensor, None]:
        return round_to_nearest(source.read(head_tensor(source.config)), scheme), None

    monkeypatch.setattr(sensitivity, "solve_input_group", nearest)
    monkeypatch.setattr(sensitivity, "solve_head", nearest_head)
    source, tokens = outlier_model(**overrides), random_tokens(8, 32)
    costs = measure(source, tokens, tmp_path)
    unseen = tokens[-HELD_OUT:]
    for group, values in costs.items():
        numbers = (0, 1, 2) if group.layer is None else (1,)
        for number in numbers:
            scheme = WIDTHS[number]
            assert scheme is not None
            assert values[number] == pytest.approx(
                kl_of_models(source, rounded(source, group, scheme), unseen), rel=0.02, abs=2e-6
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overrides", MODELS.values(), ids=MODELS.keys())
def test_u7_progress_moves_within_a_layer_and_ends_at_its_total(overrides: dict[str, Any], tmp_path: Path) -> None:
    counted = Counted()
    source = outlier_model(**overrides)
    with report_to(counted):
        measure(source, random_tokens(40, 32), tmp_path)
    assert sum(counted.moves) == counted.total
    assert sum(count > 0 for count in counted.moves) > 2 * 4
    assert max(counted.moves) < counted.total / 2


def test_fewer_bits_cost_more_and_float_costs_nothing(tmp_path: Path) -> None:
    costs = measure(outlier_model(), random_tokens(16, 64), tmp_path)
    for two, four, eight, nothing in costs.values():
        assert two > 3 * four > 30 * eight > 0
        assert nothing == 0


def test_kl_of_hidden_states_is_that_of_the_distributions() -> None:
    source = outlier_model()
    other = rounded(source, next(scheme_groups(source.config)), FOUR)
    tokens = random_tokens(2, 32)
    target, own = (hidden_states(model, tokens).flatten(0, 1) for model in (source, other))
    same, changed = mean_kl(LogitsHead(source), target, LogitsHead(source), [target, own])
    assert abs(same) < 1e-6
    assert changed == pytest.approx(kl_of_models(source, other, tokens), rel=1e-3)


def test_experts_of_a_layer_have_one_scheme() -> None:
    groups = [group for group in scheme_groups(outlier_model(**MOE).config) if group.layer == 1]
    assert [group.role for group in groups] == ["qkv", "o", "experts"]
    assert len(groups[-1].tensors) == 3 * 8
    assert groups[-1].has_experts
