"""`GeneratedComparison`: results of two models' generated answers, the part of a scorecard not read token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from q3edge.artifact import Notice
from q3edge.evaluation.distance.statistics import Estimate
from q3edge.evaluation.scorecard.scorecard import Behaviour, LostAnswer, Slice
from q3edge.evaluation.scorecard.slices import AreaScore


@dataclass(frozen=True, slots=True)
class GeneratedComparison:
    """Two models' generated answers compared. areas, languages, suites: over the items where both answers were judged.

    length_ratio: candidate's tokens over the reference's, over the items that both were asked. lost: what the reference
    answered right and the candidate wrong. notices: what was left out. continuations: the reference's and the
    candidate's from the worst positions, in their order.
    """

    areas: Mapping[str, AreaScore]
    languages: Mapping[str, Slice]
    suites: Mapping[str, Slice]
    reference_behaviour: Behaviour | None
    candidate_behaviour: Behaviour | None
    length_ratio: Estimate | None
    lost: tuple[LostAnswer, ...]
    notices: tuple[Notice, ...]
    continuations: tuple[tuple[str, str], ...] = ()
