"""Results as plain text tables for a terminal. Pure functions: objects in, strings out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from q3edge.cli.layout import table
from q3edge.plain_line import counted, plain_line

if TYPE_CHECKING:
    from q3edge.architecture.config import Qwen3Config
    from q3edge.evaluation.distance.statistics import Comparison, Estimate
    from q3edge.evaluation.validation.embeddings import EmbeddingReport
    from q3edge.evaluation.validation.results import CheckResult, ValidationReport
    from q3edge.pipeline.inspect import Inspection
    from q3edge.pipeline.measure.bench import BenchResult
    from q3edge.pipeline.sharing import FoundModel
    from q3edge.report.content import Spread


_FOREIGN = 1000.0  # perplexity; of text that a model knows it is below a hundred


def estimate(value: Estimate | None, digits: int = 4, scale: float = 1.0) -> str:
    """Format a value with its interval, value [low, high], to so many significant digits; without one, the value.

    A hyphen for None.
    """
    if value is None:
        return "-"
    text = f"{value.value * scale:.{digits}g}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{value.low * scale:.{digits}g}, {value.high * scale:.{digits}g}]"


def models_table(models: Iterable[FoundModel]) -> str:
    """Format the models at hand, a line each; what is missing files says so."""
    rows = [
        (
            plain_line(model.name) + ("" if model.complete else " (incomplete)"),
            f"{model.model_bytes / 1e6:.1f}",
            "-" if model.bits_per_weight is None else f"{model.bits_per_weight:.2f}",
            "-" if model.text_kl is None else f"{model.text_kl:.4f}",
        )
        for model in models
    ]
    return table(("model", "MB", "bits", "text KL"), rows)


def check_lines(checks: Iterable[CheckResult]) -> str:
    """Format checks, a line each."""
    return "\n".join(f"{check.status:>7}  {check.name}: {check.reason}" for check in checks)


def validation_table(report: ValidationReport | EmbeddingReport) -> str:
    """Format a validation: the verdict, every metric with its interval, the two parts of the error, and the checks."""
    from q3edge.evaluation.validation.results import ValidationReport

    if not isinstance(report, ValidationReport):
        return _embedding_validation(report)
    overall = report.overall
    rows = [
        ("mean KL on the text (nats)", estimate(report.text_kl)),
        ("median KL", estimate(overall.median_kl)),
        ("99 % KL", estimate(overall.p99_kl)),
        ("99.9 % KL", estimate(overall.p999_kl)),
        ("top-1 agreement (%)", estimate(overall.top1_agreement, scale=100)),
        ("perplexity, float model", estimate(overall.reference_perplexity)),
        ("perplexity, this model", estimate(overall.candidate_perplexity)),
        ("ln perplexity ratio", estimate(overall.log_perplexity_ratio)),
        ("RMS probability change (%)", estimate(overall.rms_probability_change, scale=100)),
    ]
    if report.weights_part is not None and report.activations_part is not None:
        rows.append(("  KL from the weights alone", estimate(report.weights_part.mean_kl)))
        rows.append(("  KL from int8 activations", estimate(report.activations_part.mean_kl)))
    if report.routing:
        shares = [100 * found.agreement for found in report.routing]
        rows.append(("experts chosen as by the float model (%)", f"{sum(shares) / len(shares):.4g}"))
        rows.append(("  in the layer where fewest are", f"{min(shares):.4g}"))
    title = (
        f"{counted(overall.tokens, 'token')}, {counted(overall.windows, 'window')}; kernels: {report.kernels}; "
        "brackets: 95 % confidence"
    )
    verdict = [report.verdict.replace("; ", ";\n"), *_foreign(overall)]
    parts = [*verdict, title, table(("metric", "value"), rows), _by_text(report), check_lines(report.checks)]
    return "\n\n".join(parts)


def _embedding_validation(report: EmbeddingReport) -> str:
    """Format a validation of an embedding model: the verdict, the numbers with their intervals, and the checks."""
    rows = [
        ("mean cosine with the float vectors", estimate(report.cosine, 5)),
        ("lowest cosine", f"{report.lowest_cosine:.5g}"),
        ("same nearest text (%)", estimate(report.nearest, 3, scale=100)),
        ("same ten nearest texts (%)", estimate(report.neighbours, 3, scale=100)),
    ]
    if report.weights_part is not None and report.activations_part is not None:
        rows.append(("  cosine lost by the weights alone", f"{1 - report.weights_part:.2g}"))
        rows.append(("  cosine lost by int8 activations", f"{1 - report.activations_part:.2g}"))
    title = f"{counted(report.texts, 'passage')}; kernels: {report.kernels}; brackets: 95 % confidence"
    return "\n\n".join([report.verdict, title, table(("metric", "value"), rows), check_lines(report.checks)])


def _foreign(overall: Comparison) -> list[str]:
    """Warn where the float model itself does not know the text, so that the verdict says little of its use."""
    found = overall.reference_perplexity.value
    if found < _FOREIGN:
        return []
    return [
        f"But this text is foreign to the float model itself (perplexity {found:.0f}): judge it by text of its use, "
        "with --text."
    ]


def _by_text(report: ValidationReport) -> str:
    def row(name: str, found: Comparison) -> tuple[str, ...]:
        same = estimate(found.top1_agreement, 3, scale=100)
        return name, str(found.tokens), estimate(found.mean_kl, 3), same

    rows = [row(name, found) for name, found in report.by_text.items()]
    return table(("text", "tokens", "text KL", "top-1 agreement (%)"), rows)


def inspection_table(inspection: Inspection) -> str:
    """Format an inspection: the model in a few lines, then one row per format."""
    from q3edge.pipeline.predictions import cache_tokens

    config = inspection.config
    heads = f"{config.num_attention_heads} heads ({config.num_key_value_heads} KV) of {config.head_dim}"
    kv_bytes = inspection.kv_bytes_per_token
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in inspection.dtypes.items())
    lines = [
        f"{inspection.model}: {config.model_type}, {inspection.kind}, {inspection.weights / 1e6:.1f} M weights "
        f"({inspection.embedding_weights / 1e6:.1f} M in the embedding, "
        f"{_head_of(config)})",
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, {heads}, vocabulary {config.vocab_size}",
        *_experts_of(inspection),
        f"context {config.context_length} tokens, {config.rope.rope_type} RoPE, "
        + ("no KV cache" if not kv_bytes else f"KV cache {kv_bytes / 1024:.0f} KiB per token"),
        f"stored as {dtypes}: {inspection.stored_bytes / 1e6:.1f} MB",
    ]
    cached = cache_tokens(config)
    rows = [
        (
            found.format,
            f"{found.disk_bytes / 1e6:.1f}",
            f"{found.bits_per_weight:.2f}",
            f"{found.ram_bytes / 1e6:.0f}",
            "-" if found.tokens_per_second is None else f"{found.tokens_per_second:.0f}",
            f"{found.build_seconds:.0f}",
        )
        for found in inspection.predictions
    ]
    header = ("format", "disk MB", "bits/weight", "RAM MB", "tokens/s", "make s")
    parts = ["\n".join(lines), table(header, rows)]
    parts += [f"{name}: not possible, {reason}" for name, reason in inspection.not_possible.items()]
    parts.append(
        f"Disk is exact. RAM (with {cached} tokens of cache), tokens/s and the time to quantize and export "
        "are predictions. Tokens/s are counted from the memory bandwidth that one core reached just now, all cores "
        "free and at the start of a context: a small model, a busy machine or a long context stays below. The time is "
        "for rounding to nearest (--method rtn); calibration says how long it takes when it starts."
    )
    return "\n\n".join(parts)


def _experts_of(inspection: Inspection) -> list[str]:
    config = inspection.config
    if (moe := config.moe) is None:
        return []
    layers = sum(map(config.is_moe_layer, range(config.num_hidden_layers)))
    return [
        f"{moe.num_experts} experts of width {moe.moe_intermediate_size} in {counted(layers, 'layer')}, "
        f"{moe.num_experts_per_tok} a token, which uses {inspection.active_weights / 1e6:.1f} M of the weights"
    ]


def _head_of(config: Qwen3Config) -> str:
    if config.is_embedding:
        return "no head"
    return f"{'tied to' if config.tie_word_embeddings else 'apart from'} the head"


def bench_table(result: BenchResult) -> str:
    """Format a benchmark: load, first token and prefill, then a row per depth."""

    def cell(found: Spread, digits: int, scale: float = 1.0) -> str:
        return f"{found.median * scale:.{digits}f} [{found.low * scale:.{digits}f}, {found.high * scale:.{digits}f}]"

    title = (
        f"{result.folder}: {result.model_bytes / 1e6:.1f} MB, {counted(result.threads, 'thread')}, {result.cpu}, "
        f"reads {result.read_bandwidth / 1e9:.1f} GB/s, kernels: {result.kernels}"
    )
    once = [
        ("load (s)", cell(result.load, 2)),
        ("first token of a new process (s)", cell(result.first_token, 2)),
        (f"prefill of {counted(result.prompt, 'token')} (tokens/s)", cell(result.prefill_tokens_per_second, 0)),
    ]
    rows = [
        (
            f"after {counted(found.depth, 'token')}",
            cell(found.tokens_per_second, 1),
            f"{found.bytes_per_token / 1e6:.0f}",
            f"{100 * found.bandwidth_share:.0f}",
            cell(found.peak_bytes, 0, 1e-6),
        )
        for found in result.depths
    ]
    header = ("decoding", "tokens/s", "MB read per token", "% of bandwidth", "peak MB")
    processes = counted(result.repeats, "process", "processes")
    note = f"median [smallest, largest] of {processes}, {counted(result.new, 'token')} each"
    return "\n\n".join([title, table(("once", "value"), once), table(header, rows), note])
