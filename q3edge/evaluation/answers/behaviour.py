"""`GeneratedAnswer`, what a model generated for one item, and its writing behaviour over many items.

Behaviour: whether it closes its thinking, ends by itself, keeps to JSON and to the language of the question.
Correctness is judged in `number_match`, of programs in `q3edge.evaluation.sandbox`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from q3edge.evaluation.answers.number_match import json_value
from q3edge.evaluation.distance.statistics import Bootstrap, Estimate, wilson
from q3edge.evaluation.scorecard.scorecard import Behaviour
from q3edge.evaluation.suites.suite import Item
from q3edge.languages import UNKNOWN, detect_language
from q3edge.runtime.text.thinking import THINK_END, THINK_START

_MIN_LETTERS = 20  # a shorter text, such as a name or a number with its unit, is in no language
_ALIKE = {"no": "da"}  # the detector cannot tell them apart: they share their small words


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """Generated answer to one item, and whether it is right.

    text: all of it; thinking and answer: its two parts. tokens: without the stop token. finish_reason: None where the
    model was not asked. correct: None where it is not known, and reason then says why; of a program that is wrong,
    reason says how it failed. stopped: the thinking came to its budget. seconds: from the question to the whole answer,
    no part of what answers are compared by.
    """

    text: str
    thinking: str
    answer: str
    tokens: int
    finish_reason: Literal["stop", "length"] | None
    correct: bool | None
    reason: str = ""
    stopped: bool = False
    seconds: float = field(default=0.0, compare=False)


def behaviour(items: Sequence[Item], generated: Sequence[GeneratedAnswer]) -> Behaviour | None:
    """Measure how a model writes over the items it was asked; None if it was asked none. `generated`: one per item.

    Shares have Wilson intervals; the mean length has one from the bootstrap over items.
    """
    asked = [(item, found) for item, found in zip(items, generated, strict=True) if found.finish_reason is not None]
    if not asked:
        return None
    lengths = np.array([found.tokens for _, found in asked], np.float64)
    return Behaviour(
        thinking_closed=_share([thinking_closed(found) for _, found in asked]),
        ended=_share([found.finish_reason == "stop" for _, found in asked]),
        json_valid=_share([_is_json(found.answer) for item, found in asked if item.answer_format == "json"]),
        language_kept=_share([language_kept(item, found) for item, found in asked]),
        length=Bootstrap(np.arange(len(asked))).mean(lengths),
    )


def thinking_closed(found: GeneratedAnswer) -> bool | None:
    """Tell whether the last thinking, opened by the model or by its template, was closed; None where there is none."""
    opened, closed = found.text.rfind(THINK_START), found.text.rfind(THINK_END)
    if opened < 0 and closed < 0 and not found.thinking:
        return None
    return closed > opened


def language_kept(item: Item, found: GeneratedAnswer) -> bool | None:
    """Tell whether the answer is in the language of the question; None for programs, and where either is unknown.

    `detect_language` names both, so a tag that a file gives is never compared with one that the detector has.
    """
    if item.kind == "code":
        return None
    asked, answered = _language(item.prompt), _language(found.answer)
    return None if UNKNOWN in (asked, answered) else asked == answered


def _language(text: str) -> str:
    if sum(map(str.isalpha, text)) < _MIN_LETTERS:
        return UNKNOWN
    found = detect_language(text)
    return _ALIKE.get(found, found)


def _is_json(text: str) -> bool:
    try:
        json_value(text)
    except ValueError:
        return False
    return True


def _share(flags: Sequence[bool | None]) -> Estimate | None:
    """Share of the flags that are true, among those that are not None; None if all are."""
    known = [flag for flag in flags if flag is not None]
    return wilson(known) if known else None
