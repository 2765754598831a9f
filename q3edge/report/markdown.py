"""A report as Markdown for model cards: recommendation, a table of all variants, one of the areas, and methods."""

from __future__ import annotations

import re
from collections.abc import Sequence

from q3edge.evaluation.distance.kl_names import KL_TITLES, KL_WORDS
from q3edge.report.content import Report, Speed, Spread, Variant
from q3edge.report.numbers import STYLES, budget_words, with_interval
from q3edge.report.plain_text import visible
from q3edge.report.slices import slice_table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~&$])")


def render_markdown(report: Report) -> str:
    """Render the same numbers as the page, rounded alike; text of unknown origin is escaped."""
    parts = [
        f"## {_escaped(report.recommendation.sentence)}",
        f"{report.recommendation.rule} Smallest: {_escaped(report.recommendation.smallest or '–')}; "
        f"most accurate: {_escaped(report.recommendation.most_accurate or '–')}.",
        _list(
            report.recommendation.refused_title,
            [f"{_escaped(n)}: {_escaped(why)}" for n, why in report.recommendation.refused.items()],
        ),
        _variants(report),
        _areas(report.variants),
        _experts(report.variants),
        _thinking(report),
        _list("Failed", [f"{_escaped(f.name)}: {_escaped(f.reason)}" for f in report.failures]),
        _list(
            "Not measured", [f"{_escaped(v.name)}: {_escaped(reason)}" for v in report.variants for reason in v.missing]
        ),
        "Recovery: the score kept, in percent of the reference's. "
        f"The {KL_TITLES[report.kl]} is the {KL_WORDS[report.kl]}: the divergence of the next-token distribution "
        "from the reference's, in nats. Brackets: 95 % intervals; of speed and memory, the smallest and largest.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _variants(report: Report) -> str:
    kl = KL_TITLES[report.kl]
    header = ["variant", "MB", "% of reference", "recovery %", kl, "top-1 agreement %", "tokens/s", "peak MB"]
    rows = []
    for variant in report.variants:
        share, found = report.share(variant), report.comparison(variant)
        rows.append(
            [
                _escaped(variant.name) + (" (baseline)" if variant.kind == "baseline" else ""),
                STYLES["megabytes"](variant.model_bytes),
                "–" if share is None else STYLES["whole_share"](share),
                with_interval(variant.recovery, "percent"),
                with_interval(report.mean_kl(variant), "nats"),
                with_interval(found.top1_agreement if found else None, "share"),
                _rate(variant.speed),
                _spread(variant.speed.peak_bytes if variant.speed else None, "whole_megabytes"),
            ]
        )
    return _table(header, rows)


def _areas(variants: Sequence[Variant]) -> str:
    table = slice_table(variants, "areas")
    if table is None:
        return ""
    header = ["recovery %", *(f"{_escaped(c.title)} (n = {c.items or 'differs'})" for c in table.columns)]
    rows = [
        [_escaped(variant.name), *(with_interval(s.recovery if s else None, "percent") for s in slices)]
        for variant, slices in table.rows
    ]
    return _table(header, rows)


def _experts(variants: Sequence[Variant]) -> str:
    lines = []
    for variant in variants:
        words = [] if variant.experts is None else [*variant.experts.words]
        if variant.fewer_experts:
            words.insert(0, "Each token goes to {} experts, in place of {}.".format(*variant.fewer_experts))
        if words:
            lines.append(f"{_escaped(variant.name)}: {' '.join(words)}")
    return _list("Experts", lines)


def _thinking(report: Report) -> str:
    advice = report.thinking
    if advice is None:
        return ""
    header = [
        "thinking budget",
        "tokens",
        "right %",
        "tokens an answer",
        "thinking stopped %",
        "s an answer",
        "median s",
    ]
    rows = [
        [
            _escaped(point.variant),
            budget_words(point.budget),
            with_interval(point.result.accuracy, "share"),
            with_interval(point.result.tokens, "tokens"),
            STYLES["share"](point.result.stopped.value),
            with_interval(point.result.seconds, "seconds"),
            STYLES["seconds"](point.result.median_seconds),
        ]
        for point in advice.points
    ]
    command = f"`{report.thinking_command}`" if report.thinking_command else ""
    said = ["### Thinking budget", f"{_escaped(advice.sentence)} {advice.rule}", command, _table(header, rows)]
    return "\n\n".join(part for part in said if part)


def _rate(speed: Speed | None) -> str:
    if speed is None:
        return "–"
    rate = _spread(speed.tokens_per_second, "rate")
    return f"at most {rate}" if speed.products_only else rate


def _spread(found: Spread | None, style: str) -> str:
    if found is None:
        return "–"
    write = STYLES[style]
    return f"{write(found.median)} [{write(found.low)}, {write(found.high)}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {line}" for line in lines)]) if lines else ""


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", visible(text))
