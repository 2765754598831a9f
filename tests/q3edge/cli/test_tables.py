"""What tables say in words: warnings, and names that their readers know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from q3edge.cli.tables.report import diff_table
from q3edge.cli.tables.tables import validation_table
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.pipeline.measure.diff import ArtifactDiff, Change, SchemeChange
from tests.helpers.reports import comparison


@pytest.mark.parametrize(("perplexity", "foreign"), [(8.1, False), (999.0, False), (13790.0, True)])
def test_text_that_the_float_model_does_not_know_is_told_beside_the_verdict(perplexity: float, foreign: bool) -> None:
    overall = replace(comparison(0.08), reference_perplexity=Estimate(perplexity, None, None))
    report = ValidationReport(overall, {}, None, None, (), "worse than float, for simple tasks: it loses one in six")
    said = "foreign to the float model itself (perplexity 13790)" in validation_table(report)
    assert said == foreign


def test_a_diff_has_the_words_of_a_validation() -> None:
    found = ArtifactDiff(
        a="a", b="b", identical=False, method=None, schemes=(SchemeChange("int8", "int4", 1, "lm_head"),), sizes=(),
        files=(), notices_only_a=(), notices_only_b=(), versions=(),
        metrics=(Change("validation.overall.p99_kl", 0.002, 0.12), Change("calibration.rows", 1, 2)),
        predictions=None, not_compared="other tokenizer",
    )  # fmt: skip
    text = diff_table(found)
    assert "  99 % KL: 0.002 -> 0.12\n  and 1 more: add --json" in text
    assert "int8 -> int4: 1 tensor, first lm_head" in text
