"""A scorecard as plain text for a terminal. Pure functions: a scorecard in, strings out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from q3edge.cli.layout import table
from q3edge.cli.tables.tables import check_lines, estimate
from q3edge.plain_line import counted
from q3edge.report.numbers import budget_words

if TYPE_CHECKING:
    from q3edge.evaluation.scorecard.scorecard import Example, Scorecard, Slice
    from q3edge.evaluation.scorecard.thinking_budgets import ThinkingBudgets

_EXAMPLES = 3
_CONTEXT = 60  # characters


def scorecard_table(scorecard: Scorecard) -> str:
    """Format a scorecard: recovery, tables of areas, languages and suites, differences, thinking budgets, checks."""
    recovery = estimate(scorecard.recovery)
    weights = ", ".join(f"{area} {100 * weight:.0f} %" for area, weight in scorecard.area_weights.items())
    title = f"{scorecard.artifact} against {scorecard.reference}: recovery {recovery} %"
    if weights:
        title += f" ({weights})"
    parts = [title, _overall(scorecard)]
    parts += [
        _slices(scorecard, kind, slices)
        for kind, slices in (
            ("kind", scorecard.kinds),
            ("area", scorecard.areas),
            ("language", scorecard.languages),
            ("suite", scorecard.suites),
        )
        if slices
    ]
    if scorecard.worst:
        parts.append("\n".join(["most different:", *(_example(found) for found in scorecard.worst[:_EXAMPLES])]))
    if scorecard.thinking_budgets:
        parts += _budgets(scorecard.thinking_budgets)
    parts.append(check_lines(scorecard.checks))
    return "\n\n".join(parts)


def _overall(scorecard: Scorecard) -> str:
    overall, timing = scorecard.overall, scorecard.timing
    if overall is None:
        return f"{scorecard.seconds:.0f} s"
    spent = [
        f"{name} {timing[key]:.0f} s" for name in ("reference", "candidate") if (key := f"{name}_seconds") in timing
    ]
    return (
        f"{counted(overall.tokens, 'token')}, {counted(overall.windows, 'item')}; "
        f"mean KL on the suites {estimate(overall.mean_kl, 3)} nats, "
        f"top-1 agreement {estimate(overall.top1_agreement, 3, scale=100)} %\n"
        f"{scorecard.seconds:.0f} s ({', '.join(spent)}){_kernels(scorecard)}; brackets: 95 % confidence"
    )


def _kernels(scorecard: Scorecard) -> str:
    found = scorecard.settings.get("kernels")
    return f"; kernels: {found}" if found else ""


def _slices(scorecard: Scorecard, kind: str, slices: Mapping[str, Slice]) -> str:
    rows = [
        (
            name,
            str(found.items),
            found.metric if kind == "kind" or not scorecard.kinds else f"{found.metric} of {found.scored}",
            estimate(found.reference_score, 3),
            estimate(found.candidate_score, 3),
            estimate(found.recovery),
            estimate(found.comparison.mean_kl if found.comparison else None, 3),
        )
        for name, found in slices.items()
    ]
    return table((kind, "items", "score", "reference", "this model", "recovery (%)", "suite KL"), rows)


def _budgets(found: ThinkingBudgets) -> list[str]:
    """Title, and tables by budget: of all questions, and the accuracy of each area where there are several."""
    machine = found.timed_on
    title = (
        f"thinking budgets: {counted(len(found.questions), 'question')}, each answered with thinking and by itself; "
        f"{machine['cpu']}, {counted(int(machine['threads']), 'thread')}"
    )
    rows = [
        (
            budget_words(result.budget),
            estimate(result.accuracy, 3, scale=100),
            estimate(result.tokens, 3),
            estimate(result.stopped, 3, scale=100),
            estimate(result.seconds, 3),
            f"{result.median_seconds:.3g}",
        )
        for result in found.results
    ]
    header = ("budget", "right (%)", "tokens", "thinking stopped (%)", "seconds, mean", "median")
    parts = [f"{title}\n{table(header, rows)}"]
    areas = found.results[0].areas
    if len(areas) > 1:
        by_area = [(area, *(f"{100 * r.areas[area].value:.3g}" for r in found.results)) for area in areas]
        parts.append(table(("right (%)", *(budget_words(r.budget) for r in found.results)), by_area))
    return parts


def _example(found: Example) -> str:
    context = " ".join(found.context.split())[-_CONTEXT:]

    def shown(tokens: tuple[tuple[str, float], ...]) -> str:
        return ", ".join(f"{token!r} {100 * probability:.0f} %" for token, probability in tokens[:2])

    return (
        f"  {found.suite}, {found.item}, {found.kl:.3g} nats: ...{context}\n"
        f"    reference: {shown(found.reference_next)}; this model: {shown(found.candidate_next)}"
    )
