"""Multilingual: the same facts and sums in five languages, answered in the language of the question."""

from __future__ import annotations

from random import Random

from ..item import Item
from .arithmetic import add_steps, number, subtract_steps, sum_key
from .phrases import CAPITALS, COLOURS, LANGUAGES, LEGS, OPPOSITES, SENTENCES, WORDINGS

Pair = tuple[str, str]


def _table(text: str) -> dict[str, list[Pair]]:
    """Read rows of 'a:b' cells, one cell per language."""
    table: dict[str, list[Pair]] = {language: [] for language in LANGUAGES}
    for row in text.strip().splitlines():
        for language, cell in zip(LANGUAGES, row.split("|"), strict=True):
            left, right = cell.split(":")
            table[language].append((left, right))
    return table


FACTS = {
    "capital": _table(CAPITALS),
    "colour": _table(COLOURS),
    "legs": _table(LEGS),
    "opposite": _table(OPPOSITES),
}
_RELATIONS = tuple(FACTS)


def _fact(rng: Random, language: str) -> Item:
    relation = rng.choices(_RELATIONS, (14, 8, 8, 12))[0]
    a, b = rng.choice(FACTS[relation][language])
    steps = SENTENCES[relation][language].format(a=a, b=b)
    if relation == "opposite" and rng.random() < 0.5:
        a, b = b, a
    question = rng.choice(WORDINGS[relation][language]).format(a=a, b=b)
    return Item("multilingual", language, question, steps[0].upper() + steps[1:], b, question)


def _sum(rng: Random, language: str) -> Item:
    """A sum or difference of two-digit numbers; its key is that of the same sum in the math area."""
    low, high = sorted((number(rng, 2), number(rng, 2)))
    if rng.random() < 0.5:
        a, b = rng.choice(((low, high), (high, low)))
        question = rng.choice(WORDINGS["add"][language]).format(a=a, b=b)
        return Item("multilingual", language, question, _bare(add_steps(a, b)), str(a + b), sum_key("add", low, high))
    question = rng.choice(WORDINGS["sub"][language]).format(a=high, b=low)
    steps = _bare(subtract_steps(high, low))
    return Item("multilingual", language, question, steps, str(high - low), sum_key("sub", high, low))


def _bare(steps: str) -> str:
    """Drop the English words from worked digits, so that they serve every language."""
    lines = [line.split(": ")[-1].replace(", borrow", " (-1)") for line in steps.splitlines()]
    lines[-1] = "= " + lines[-1].removeprefix("So ")
    return "\n".join(lines)


def sample(rng: Random, thinking: bool) -> Item:
    """Draw one question in one of the five languages."""
    language = rng.choice(LANGUAGES)
    return _fact(rng, language) if rng.random() < 0.6 else _sum(rng, language)
