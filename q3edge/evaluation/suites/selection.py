"""`Selection`: which areas, and how many items of each suite, an evaluation is limited to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from q3edge.errors import UsageError
from q3edge.evaluation.suites.suite import Suite

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Selection:
    """Limits of an evaluation. areas: only items of these (None: all). limit: of each suite at most so many questions,
    and so many windows of text, evenly spaced, so that a suite sorted by topic keeps all topics (None: all).
    """

    areas: tuple[str, ...] | None = None
    limit: int | None = None

    def apply(self, suites: Sequence[Suite]) -> tuple[Suite, ...]:
        """Select from the suites the chosen questions and all texts of the areas; drop suites that have neither.

        UsageError: an area that no suite has, or a limit below 1.
        """
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit {self.limit}: expected at least 1")
        known = dict.fromkeys(item.area for suite in suites for item in suite.items)
        if unknown := [area for area in self.areas or () if area not in known]:
            raise UsageError(f"area {unknown[0]!r}: no suite has it; expected some of {', '.join(known)}")
        chosen = []
        for suite in suites:
            items = [item for item in suite.items if self.areas is None or item.area in self.areas]
            kept = {item.id for item in evenly_chosen([item for item in items if item.kind != "text"], self.limit)}
            if items := [item for item in items if item.kind == "text" or item.id in kept]:
                chosen.append(replace(suite, items=tuple(items)))
        return tuple(chosen)


def evenly_chosen(values: Sequence[Value], limit: int | None) -> list[Value]:
    """Select at most `limit` of the values (None: all), evenly spaced, in their order."""
    if limit is None or len(values) <= limit:
        return list(values)
    return [values[i * len(values) // limit] for i in range(limit)]
