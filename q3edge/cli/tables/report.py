"""Results of `diff`, `check`, `report` and `sweep` as plain text for a terminal. Objects in, strings out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from q3edge.cli.layout import table
from q3edge.cli.tables.tables import check_lines, estimate
from q3edge.evaluation.distance.kl_names import KL_TITLES
from q3edge.plain_line import counted

if TYPE_CHECKING:
    from q3edge.pipeline.measure.diff import ArtifactDiff
    from q3edge.pipeline.measure.gate import GateReport
    from q3edge.report.content import Report, Variant


_MEASURED = {  # names in a manifest, as `validate` says them
    "bits_per_weight": "bits per weight",
    "model_bytes": "bytes of graph and weights",
    "weight_bytes": "bytes of weights",
    "validation.text_kl": "mean KL on the text (nats)",
    "validation.overall.median_kl": "median KL",
    "validation.overall.p99_kl": "99 % KL",
    "validation.overall.p999_kl": "99.9 % KL",
    "validation.overall.top1_agreement": "top-1 agreement (share)",
    "validation.overall.reference_perplexity": "perplexity, float model",
    "validation.overall.candidate_perplexity": "perplexity, this model",
    "validation.overall.log_perplexity_ratio": "ln perplexity ratio",
    "validation.overall.rms_probability_change": "RMS probability change (share)",
    "validation.overall.max_logit_error": "largest error of a logit",
}


def report_table(report: Report) -> str:
    """Format a report: recommendation, a row per variant, then failures and missing measurements."""
    rows = [_row(report, variant) for variant in report.variants]
    header = ("variant", "MB", "of reference", "recovery (%)", f"{KL_TITLES[report.kl]} (nats)", "tokens/s")
    advice = report.recommendation
    run = [f"Run it: {report.run_command}"] if report.run_command else []
    parts = ["\n".join([advice.sentence, *run])]
    if advice.refused:
        parts.append("\n".join([f"{advice.refused_title}:", *_indented(advice.refused)]))
    if rows:
        parts.append(table(header, rows))
    if report.thinking:
        run = [f"Run it: {report.thinking_command}"] if report.thinking_command else []
        parts.append("\n".join([report.thinking.sentence, *run]))
    lines = [f"{failure.name}: failed, {failure.reason}" for failure in report.failures]
    lines += [f"{variant.name}: {reason}" for variant in report.variants for reason in variant.missing]
    if lines:
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _indented(reasons: Mapping[str, str]) -> list[str]:
    return [f"  {name}: {reason}" for name, reason in reasons.items()]


def _row(report: Report, variant: Variant) -> tuple[str, ...]:
    share, speed, kl = report.share(variant), variant.speed, report.mean_kl(variant)
    rate = "-" if speed is None else f"{speed.tokens_per_second.median:.1f}"
    return (
        variant.name if variant.kind == "artifact" else f"{variant.name} (baseline)",
        f"{variant.model_bytes / 1e6:.1f}",
        "-" if share is None else f"{100 * share:.0f} %",
        estimate(variant.recovery),
        estimate(kl, 3),
        f"< {rate}" if speed and speed.products_only else rate,
    )


def gate_table(report: GateReport) -> str:
    """Format a gate check: the source of the numbers, and a line per gate."""
    return f"{report.artifact}, by {report.source}\n{check_lines(report.results)}"


def diff_table(found: ArtifactDiff) -> str:
    """Format a diff: sizes of both, a section for each kind of change, and the predictions."""
    rows = [(c.name, _megabytes(c.a), _megabytes(c.b), _ratio(c.a, c.b)) for c in found.sizes]
    parts = [f"A {found.a}\nB {found.b}", table(("size (MB)", "A", "B", "B of A"), rows)]
    schemes = [f"{c.a} -> {c.b}: {counted(c.tensors, 'tensor')}, first {c.first}" for c in found.schemes]
    if found.method:
        schemes.append(f"method {found.method.a} -> {found.method.b}")
    files = [f"{c.name}: {_absent(c.a)} -> {_absent(c.b)} bytes" for c in found.files]
    notices = [f"only A: {notice.detail}" for notice in found.notices_only_a]
    notices += [f"only B: {notice.detail}" for notice in found.notices_only_b]
    for title, lines in (
        ("weights", schemes),
        ("files that differ", files),
        ("notices", notices),
        ("versions", [f"{c.name}: {_absent(c.a)} -> {_absent(c.b)}" for c in found.versions]),
        ("measured", _measured(found)),
    ):
        if lines:
            parts.append("\n".join([f"{title}:", *(f"  {line}" for line in lines)]))
    if found.identical:
        parts.append("Every file is the same.")
    parts.append(_predictions(found))
    return "\n\n".join(parts)


def _measured(found: ArtifactDiff) -> list[str]:
    """Lines of the changed measurements of the whole model; those of parts are only counted."""
    whole = ("validation.overall.", "validation.text_kl")
    shown = [c for c in found.metrics if "." not in c.name or c.name.startswith(whole)]
    lines = [f"{_MEASURED.get(c.name, c.name)}: {_absent(c.a)} -> {_absent(c.b)}" for c in shown]
    if rest := len(found.metrics) - len(shown):
        lines.append(f"and {rest} more: add --json")
    return lines


def _predictions(found: ArtifactDiff) -> str:
    if found.predictions is None:
        return f"Predictions not compared: {found.not_compared}."
    same = estimate(found.predictions.top1_agreement, scale=100)
    return (
        f"Predictions of B against A on {found.predictions.tokens} tokens of the built-in text: mean KL of B from A "
        f"{estimate(found.predictions.mean_kl)} nats, top-1 agreement {same} %; brackets: 95 % confidence"
    )


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"


def _ratio(a: int | None, b: int | None) -> str:
    return f"{100 * b / a:.0f} %" if a and b is not None else "-"


def _absent(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "absent" if value is None else str(value)
