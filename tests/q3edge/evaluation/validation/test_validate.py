"""Validation end to end: with decoders faked by the float reference, where every number is known from elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.errors import ValidationError
from q3edge.evaluation.distance.logits import compare_logits
from q3edge.evaluation.distance.streams import CHUNK, decoder_logits
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.checks import check_float, check_kl, check_prefill_equals_decode
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.evaluation.validation.validate import validate_decoders
from q3edge.quantization.scheme import Scheme
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.decoders import Change, ReferenceDecoder
from tests.helpers.models import MOE, InMemoryWeights

RANDOM = np.random.default_rng(0)


def windows(*lengths: int, vocab: int = 320) -> list[Window]:
    return [Window("ab"[i % 2], RANDOM.integers(0, vocab, length + 1)) for i, length in enumerate(lengths)]


def quantized(source: InMemoryWeights, bits: int) -> InMemoryWeights:
    tensors = {
        name: round_to_nearest(values, Scheme(bits, 32)) if values.ndim == 2 else values
        for name, values in ((name, source.read(name)) for name in source.tensors)
    }
    return InMemoryWeights(source.config, tensors)


@pytest.fixture(scope="module")
def source() -> InMemoryWeights:
    return InMemoryWeights.random(1)


@pytest.fixture(scope="module")
def report(source: InMemoryWeights) -> ValidationReport:
    """An "artifact" with 4-bit weights whose logits are rounded besides, in place of rounded activations."""
    weights_only = quantized(source, 4)
    return validate_decoders(
        ReferenceDecoder(weights_only, lambda logits, _: np.round(logits, 1)),
        ReferenceDecoder(weights_only), source, windows(300, 40, 200, 128), max_kl=1e-9,
    )  # fmt: skip


def test_numbers_are_those_of_whole_logits(source: InMemoryWeights, report: ValidationReport) -> None:
    """Chunks, caches and padding must not matter: compare with all logits of each window at once."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state
    kl, part, four_bit = [], [], quantized(source, 4)
    for window in windows(300, 40, 200, 128):
        logits = [
            LogitsHead(weights).logits(hidden_states(weights, window.inputs[None])[0]).numpy()
            for weights in (source, four_bit)
        ]
        kl.append(compare_logits(logits[0], np.round(logits[1], 1), window.targets).kl)
        part.append(compare_logits(logits[1], np.round(logits[1], 1), window.targets).kl)
    assert report.overall.tokens == 668
    assert report.overall.windows == 4
    assert report.overall.mean_kl.value == pytest.approx(np.concatenate(kl).mean(), rel=1e-4)
    assert report.by_text["a"].mean_kl.value == pytest.approx(np.concatenate(kl[::2]).mean(), rel=1e-4)
    assert report.by_text["b"].tokens == 168
    assert report.activations_part is not None
    assert report.activations_part.mean_kl.value == pytest.approx(np.concatenate(part).mean(), rel=1e-2)


def test_parts_are_told_apart(report: ValidationReport) -> None:
    assert report.weights_part is not None
    assert report.activations_part is not None
    assert report.weights_part.mean_kl.value > 50 * report.activations_part.mean_kl.value > 0
    assert report.weights_part.reference_perplexity == report.overall.reference_perplexity


def test_threshold_fails_the_check(report: ValidationReport) -> None:
    assert [check.name for check in report.failures] == ["max_text_kl"]
    assert report.failures[0].value == report.overall.mean_kl.value
    assert report.failures[0].limit == 1e-9


def test_report_is_json(report: ValidationReport) -> None:
    again = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert again["overall"]["mean_kl"]["low"] == report.overall.mean_kl.low
    assert set(again["by_text"]) == {"a", "b"}
    assert again["checks"][0]["name"] == "prefill_equals_decode_rounded"


def test_float_model_against_itself(source: InMemoryWeights) -> None:
    found = validate_decoders(
        ReferenceDecoder(source),
        None,
        source,
        windows(200, 30),
        inseparable="nothing is rounded",
        is_float=True,
        is_exact=True,
        max_kl=0.1,
    )
    assert not found.failures
    assert found.overall.mean_kl.value < 1e-9
    assert found.overall.top1_agreement.value == 1
    assert found.weights_part is found.activations_part is None
    skipped = [check for check in found.checks if check.status == "skipped"]
    assert [(check.name, check.value, check.reason) for check in skipped] == [
        ("activation_error", None, "nothing is rounded")
    ]
    assert {check.name for check in found.checks} >= {"float_kl", "float_logits", "max_text_kl"}


def test_float_checks_see_a_quantized_model(report: ValidationReport) -> None:
    assert [check.status for check in check_float(report.overall)] == ["fail", "fail"]


def test_checks_say_value_and_limit(report: ValidationReport) -> None:
    reasons = {check.name: check.reason for check in (*report.checks, *check_float(report.overall))}
    assert report.activations_part is not None
    assert reasons["activation_error"].endswith(f" {report.activations_part.mean_kl.value:.3g} nats, no limit")
    assert reasons["float_kl"].endswith(f" {report.overall.mean_kl.value:.3g} nats, at most 1e-06 expected")
    assert reasons["float_logits"].endswith(f" {report.overall.max_logit_error:.3g}, at most 0.001 expected")


def test_threshold_equal_to_the_value_passes(report: ValidationReport) -> None:
    assert check_kl(report.overall, report.overall.mean_kl.value).status == "pass"


def test_path_check_sees_a_wrong_cache(source: InMemoryWeights) -> None:
    inputs = windows(64)[0].inputs
    assert check_prefill_equals_decode(ReferenceDecoder(source), inputs, rounded=False).status == "pass"
    shifted = ReferenceDecoder(source, lambda logits, cached: np.roll(logits, 1, -1) if cached else logits)
    found = check_prefill_equals_decode(shifted, inputs, rounded=True)
    assert found.status == "fail"
    assert found.value is not None
    assert found.value > 1


def test_path_check_is_strict_without_rounding(source: InMemoryWeights) -> None:
    slightly = ReferenceDecoder(source, lambda logits, cached: logits * np.float32(1.01) if cached else logits)
    inputs = windows(64)[0].inputs
    assert check_prefill_equals_decode(slightly, inputs, rounded=True).status == "pass"
    assert check_prefill_equals_decode(slightly, inputs, rounded=False).status == "fail"


def test_path_check_allows_a_token_another_choice_between_tied_experts() -> None:
    source, inputs = InMemoryWeights.random(**MOE), windows(64)[0].inputs

    def check(change: Change) -> str:
        return check_prefill_equals_decode(ReferenceDecoder(source, change), inputs, rounded=False).status

    assert check(lambda logits, _cached: logits) == "pass"
    assert check(lambda logits, cached: logits * np.float32(1.1) if cached == 5 else logits) == "pass"
    assert check(lambda logits, cached: logits * np.float32(1.01) if cached > 12 else logits) == "fail"
    assert check(lambda logits, cached: logits * np.nan if cached == 5 else logits) == "fail"


def test_float_checks_of_experts_are_of_the_mean(report: ValidationReport) -> None:
    (found,) = check_float(report.overall, experts=True)
    assert (found.name, found.status, found.limit) == ("float_kl", "fail", 1e-5)


def test_path_check_fails_on_not_a_number(source: InMemoryWeights) -> None:
    broken = ReferenceDecoder(source, lambda logits, cached: logits * np.nan if cached == 5 else logits)
    assert check_prefill_equals_decode(broken, windows(64)[0].inputs, rounded=True).status == "fail"


def test_not_a_number_is_named(source: InMemoryWeights) -> None:
    def change(logits: NDArray[np.float32], cached: int) -> NDArray[np.float32]:
        logits = logits.copy()
        if cached == CHUNK:
            logits[0, 3, 7] = np.inf
        return logits

    with pytest.raises(ValidationError, match=f"text b, token {CHUNK + 3}: logits are NaN or infinite"):
        validate_decoders(ReferenceDecoder(source, change), None, source, windows(20, CHUNK + 20))


def test_logits_in_memory_are_one_chunk(source: InMemoryWeights) -> None:
    decoder = ReferenceDecoder(source)
    sizes = [len(chunk) for chunk in decoder_logits(decoder, windows(2 * CHUNK + 44)[0].inputs)]
    assert sizes == [CHUNK, CHUNK, 44]
    assert decoder.largest_call == CHUNK
