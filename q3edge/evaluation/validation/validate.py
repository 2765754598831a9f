"""Validation of an artifact: one pass over the windows with the float model, the artifact, and the artifact with exact
activations side by side. Callers raise on a failed check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MODEL_FILE
from q3edge.artifact.sentence_files import stated_kind
from q3edge.checkpoint.source import WeightSource
from q3edge.evaluation.distance.chain import compare_models
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.statistics import Comparison, summarize
from q3edge.evaluation.distance.streams import CausalDecoder, ComparedDecoder, ComparedModel
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.activations import ActivationRounding
from q3edge.evaluation.validation.checks import (
    check_float,
    check_kl,
    check_prefill_equals_decode,
    chooses_fewer,
    require_same_architecture,
)
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.evaluation.validation.lost_scales import check_lost_scales
from q3edge.evaluation.validation.reranking import check_scores
from q3edge.evaluation.validation.results import CheckResult, ValidationReport
from q3edge.evaluation.validation.routing import check_routing, compare_routing
from q3edge.evaluation.validation.verdict import verdict
from q3edge.machine.cpu import default_threads
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.text.tokenizer import Tokenizer

# Of the float model, the artifact, and the artifact with exact activations: all error, the weights', the activations'.
_PAIRS = ((0, 1), (0, 2), (2, 1))


def validate_artifact(
    folder: Path,
    reference: WeightSource,
    windows: Sequence[Window],
    *,
    float_model: FloatReference | None = None,
    max_kl: float | None = None,
    threads: int | None = None,
    kernels: str | None = None,
) -> ValidationReport:
    """Compare the artifact in `folder` with the float model it came from, on `windows` (at least one).

    float_model: one that reads `reference` and may have its hidden states already (None: made here). kernels: as for
    `Decoder`. InputError: the folder is broken, or its architecture differs from the reference's. ValidationError:
    logits that are NaN or infinite. A failed check is in the report, not raised.
    """
    checked = open_graph(folder, afresh=True)
    config = Qwen3Config.load(folder)
    require_same_architecture(folder, config, reference.config)
    is_float = not any(rule["scheme"] for rule in checked.manifest.recipe["rules"])
    is_exact = is_float and not chooses_fewer(config, reference.config)
    # First, so that its session is gone before the others are there.
    routing = compare_routing(folder, checked, config, reference, windows, threads or default_threads(), kernels)
    decoder = Decoder(folder, threads=threads, kernels=kernels, checked=checked)
    reason = ActivationRounding.read(folder / MODEL_FILE).inseparable_reason
    exact = None
    if not reason:
        exact = Decoder(folder, threads=threads, exact_activations=True, kernels=kernels, checked=checked)
    report = validate_decoders(
        decoder, exact, reference, windows, float_model=float_model,
        inseparable=reason, is_float=is_float, is_exact=is_exact,
        int8_cache=decoder.cache_spec.dtype == "int8", max_kl=max_kl,
    )  # fmt: skip
    scores: tuple[CheckResult, ...] = ()
    if stated_kind(folder) == "reranker":
        tokenizer = Tokenizer.load(folder, decoder.config.vocab_size)
        scores = (check_scores(decoder, tokenizer, reference, windows, rounded=not is_float),)
    calibrated = None if is_float else decoder.manifest.recipe["method"] != "rtn"
    return replace(
        report,
        checks=(
            *report.checks,
            *scores,
            check_dead_matrices(folder, decoder.config, reference),
            *check_lost_scales(decoder.manifest, report.overall),
            *([check_routing(routing, is_exact=is_exact)] if routing else []),
        ),
        routing=routing,
        verdict=verdict(report.overall, calibrated=calibrated),
        kernels=decoder.kernels,
    )


def validate_decoders(
    decoder: CausalDecoder,
    exact: CausalDecoder | None,
    reference: WeightSource,
    windows: Sequence[Window],
    *,
    float_model: FloatReference | None = None,
    inseparable: str | None = None,
    is_float: bool = False,
    is_exact: bool = False,
    int8_cache: bool = False,
    max_kl: float | None = None,
) -> ValidationReport:
    """Validate loaded decoders as `validate_artifact` does a folder; `inseparable` says why `exact` is None.

    is_float: the weights are. is_exact: besides, the decoder computes all that the float model does.
    """
    inputs = windows[0].inputs
    checks = [check_prefill_equals_decode(decoder, inputs, rounded=not is_float, int8_cache=int8_cache)]
    if exact:
        checks.append(check_prefill_equals_decode(exact, inputs, rounded=False, int8_cache=int8_cache))
    models: list[ComparedModel] = [float_model or FloatReference(reference), ComparedDecoder(decoder)]
    if exact:
        models.append(ComparedDecoder(exact))
    metrics, *parts = compare_models(windows, models, _PAIRS if exact else _PAIRS[:1])
    overall = summarize(metrics)
    weights_part, activations_part = map(summarize, parts) if exact else (None, None)
    checks.append(_activation_check(activations_part, inseparable))
    if is_exact:
        checks += check_float(overall, experts=reference.config.moe is not None)
    if max_kl is not None:
        checks.append(check_kl(overall, max_kl))
    by_text = _by_text(windows, metrics)
    return ValidationReport(overall, by_text, weights_part, activations_part, tuple(checks), verdict(overall))


def _by_text(windows: Sequence[Window], metrics: Sequence[TokenMetrics]) -> dict[str, Comparison]:
    texts = dict.fromkeys(window.text for window in windows)
    return {
        text: summarize([found for window, found in zip(windows, metrics) if window.text == text]) for text in texts
    }


def _activation_check(activations_part: Comparison | None, inseparable: str | None) -> CheckResult:
    if activations_part is None:
        reason = inseparable or "no run with exact activations was given"
        return CheckResult("activation_error", "skipped", None, None, reason)
    value = activations_part.mean_kl.value
    reason = f"mean KL of rounded to exact activations {value:.3g} nats, no limit"
    return CheckResult("activation_error", "pass", value, None, reason)
