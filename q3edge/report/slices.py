"""Tables of kinds of items, areas, languages or suites: one row per variant, one column per slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.scorecard.scorecard import Scorecard, Slice
from q3edge.report.content import Variant

SliceKind = Literal["kinds", "areas", "languages", "suites"]
LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "mul": "several", "pt": "Portuguese",
    "ru": "Russian", "sw": "Swahili", "te": "Telugu", "th": "Thai", "tr": "Turkish", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """Column of one slice: its title, its number of items and the reference's score.

    items, reference_score: None where the variants disagree.
    """

    title: str
    items: int | None
    metric: str
    reference_score: Estimate | None


@dataclass(frozen=True, slots=True)
class SliceTable:
    """Table of slices. rows: a variant and its slices in the order of the columns, None where it has none."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Variant, tuple[Slice | None, ...]], ...]


def slice_table(variants: Sequence[Variant], kind: SliceKind) -> SliceTable | None:
    """Table of the variants that have a scorecard; None where no scorecard has slices of this kind."""
    evaluated = [(variant, _slices(variant.scorecard, kind)) for variant in variants if variant.scorecard]
    names = dict.fromkeys(name for _, slices in evaluated for name in slices)
    if not names:
        return None
    columns = tuple(_column(name, [slices[name] for _, slices in evaluated if name in slices]) for name in names)
    return SliceTable(columns, tuple((v, tuple(slices.get(name) for name in names)) for v, slices in evaluated))


def _slices(scorecard: Scorecard, kind: SliceKind) -> Mapping[str, Slice]:
    found: Mapping[SliceKind, Mapping[str, Slice]] = {
        "kinds": scorecard.kinds,
        "areas": scorecard.areas,
        "languages": scorecard.languages,
        "suites": scorecard.suites,
    }
    return found[kind]


def _column(name: str, found: Sequence[Slice]) -> Column:
    first = found[0]
    alike = all(other.items == first.items and other.reference_score == first.reference_score for other in found)
    return Column(
        title=LANGUAGES.get(name, name),
        items=first.items if alike else None,
        metric=first.metric,
        reference_score=first.reference_score if alike else None,
    )
