"""Answers extracted from generated text, and whether they are right: numbers, letters, JSON, plain text.

All functions get the text after thinking. A model answers freely, so the answer is extracted as other harnesses do it
(the last number, the first letter): an answer is not wrong for lacking a format that the question does not ask for.
"""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from typing import Any

from q3edge.evaluation.suites.suite import LETTERS, Item

# Where 70.000 is seventy thousand; elsewhere it is seventy, and 70 000 or 70,000 are written.
_DOT_GROUPS = frozenset({"da", "de", "el", "es", "id", "it", "nl", "pt", "ro", "tr", "vi"})
_SPACES = "\u00a0\u2009\u202f "
_SEPARATORS = {"\u066b": ".", "\u066c": ",", "\u2212": "-", "\u2019": "'", "{,}": ",", "\\,": " ", "\\!": ""}
_RUN = re.compile(rf"\d+(?:[.,'{_SPACES}]\d+)*")
_NEGATIVE = re.compile(r"(?<![\w)])-\\?[$€£¥₹]?$")
_GROUPS = rf"[1-9]\d{{0,2}}(?:(?:,\d{{3}})+|(?:'\d{{3}})+|(?:[{_SPACES}]\d{{3}})+)|[1-9]\d?(?:,\d{{2}})+,\d{{3}}"
_WITH_DOT = re.compile(rf"(?:{_GROUPS}|\d+)(?:\.\d+)?")
_WITH_COMMA = re.compile(rf"(?:[1-9]\d{{0,2}}(?:(?:\.\d{{3}})+|(?:[{_SPACES}]\d{{3}})+)|\d+),\d+")
_DOTTED = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FENCED = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)
# A letter that no Latin letter or digit touches; in languages without spaces, such as Chinese, others may.
_ALONE = r"(?<![A-Za-z0-9_'\u00c0-\u024f])([A-J])(?![A-Za-z0-9_'\u00c0-\u024f])"
# The article "A dog" and the pronoun "I think" are no choices; "A is right" is one.
_LETTER = re.compile(rf"{_ALONE}(?!(?<=[AI])\s+(?!is\b)[a-z\u00df-\u024f])")
_STATEMENT = r"(?i:\banswer|答案)(?i:\s+is)?[\s:：*_$(（\[是为]*"
_STATED = re.compile(rf"{_STATEMENT}(?:{_LETTER.pattern})")
# A small letter is a choice where nothing else follows, or where it begins the answer as "b)" or "(b)".
_STATED_SMALL = re.compile(rf"{_STATEMENT}([a-j])[*_`)）\].]*\s*$", re.MULTILINE)
_SMALL_MARKED = re.compile(r"\A\s*\(?([a-j])[).:](?=\s|\Z)")
_STATED_NUMBER = re.compile(rf"{_STATEMENT}(?=[-€£¥₹]?\d)((?:[^\n.]|\.(?=\d))*)")
_CALCULATION = re.compile(r"[=+*/×÷]|\s-\s")
_FRACTION = re.compile(r"(-?)\s*(\d+(?=\s*\\))?\s*(?:\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?|(\d+)\s*/\s*(\d+))")
_MARKUP = " \t\n*_`$()（）[].:：。"


def is_right(item: Item, answer: str) -> bool:
    """Tell whether `answer` is right for an item of kind answer or choice; ValueError for other kinds."""
    if item.kind == "choice":
        return chosen_letter(answer, item.choices) == item.final
    if item.kind != "answer":
        raise ValueError(f"{item.id}: an item of kind {item.kind} has no answer to compare")
    if item.answer_format == "json":
        return _equal_json(answer, item.final)
    if item.answer_format == "number" and (right := final_number(item.final)) is not None:
        return final_number(answer, item.language) == right
    return answer.strip() == item.final.strip()


def final_number(text: str, language: str = "") -> Decimal | None:
    """Extract the number of the last \\boxed{}, else the first after the last ####, else the one that is stated ("the
    answer is 12"), else the last; None: none.

    A box, or a whole text, may hold a fraction: \\frac{1}{2}, 1/2. A statement that calculates ends with its result.
    Digits of every script count. Commas, apostrophes and spaces between groups of three are dropped, lakhs (1,00,000)
    too; a comma before anything but three digits is a decimal one. A dot before three digits separates thousands only
    in languages that write it so. What fits no such reading is several numbers: 1,2,3 ends with 3.
    """
    text = _plain(text)
    boxed = _BOXED.findall(text)
    if (fraction := _fraction(boxed[-1] if boxed else text)) is not None:
        return fraction
    if boxed and (numbers := _numbers(boxed[-1], language)):
        return numbers[-1]
    _, mark, after = text.rpartition("####")
    if mark and (numbers := _numbers(after, language)):
        return numbers[0]
    if (stated := _STATED_NUMBER.findall(text)) and (numbers := _numbers(stated[-1], language)):
        return numbers[-1 if _CALCULATION.search(stated[-1]) else 0]
    numbers = _numbers(text, language)
    return numbers[-1] if numbers else None


def chosen_letter(text: str, choices: tuple[str, ...]) -> str | None:
    """Extract the letter of a choice: boxed, or the whole answer, or the last one stated ("Answer: B"), else the choice
    whose text is the answer, else the first letter that stands alone, else the one choice whose text occurs.
    None: none, as where a model only repeats all choices.
    """
    letters = LETTERS[: len(choices)]
    text = unicodedata.normalize("NFKC", text)  # full-width letters
    boxed = _BOXED.findall(text)
    whole = re.sub(r"\\text\b|[{}]", "", boxed[-1] if boxed else text).strip(_MARKUP)
    if len(whole) == 1 and whole.upper() in letters:
        return whole.upper()
    if stated := [letter for letter in _STATED.findall(text) if letter in letters]:
        return str(stated[-1])
    small = _STATED_SMALL.findall(text)[-1:] or _SMALL_MARKED.findall(text)
    if small and small[0].upper() in letters:
        return str(small[0].upper())
    folded = [unicodedata.normalize("NFKC", choice).strip(_MARKUP).casefold() for choice in choices]
    if folded.count(whole.casefold()) == 1:
        return letters[folded.index(whole.casefold())]
    alone = [letter for letter in _LETTER.findall(text) if letter in letters]
    if alone and not len(set(alone)) == len(letters) > 2:
        return str(alone[0])
    found = [letter for letter, choice in zip(letters, folded) if choice and choice in text.casefold()]
    return found[0] if len(found) == 1 else None


def json_value(text: str) -> Any:
    """Parse the whole text, without a code fence around it, as JSON; ValueError: it is not JSON."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _equal_json(one: str, other: str) -> bool:
    try:
        return _same(json_value(one), json_value(other))
    except (ValueError, RecursionError):
        return False


def _same(one: Any, other: Any) -> bool:
    """Compare as Python does, except that true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _fraction(text: str) -> Decimal | None:
    """Value of a text that is one fraction, maybe behind a whole number and within $; None: it is none."""
    found = _FRACTION.fullmatch(text.strip(" \t\n$"))
    if found is None:
        return None
    sign, whole, *parts = found.groups()
    above, below = (Decimal(part) for part in parts if part is not None)
    if not below:
        return None
    value = Decimal(whole or 0) + above / below
    return -value if sign else value


def _plain(text: str) -> str:
    """Text with ASCII digits, and one sign for each separator."""
    for sign, plain in _SEPARATORS.items():
        text = text.replace(sign, plain)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _numbers(text: str, language: str) -> list[Decimal]:
    """Numbers of a text in order; a minus belongs to a number that it touches, or whose currency sign it touches."""
    found = []
    for run in _RUN.finditer(text):
        before = text[max(0, run.start() - 4) : run.start()]
        for position, digits in enumerate(_split(run[0], language)):
            negative = position == 0 and _NEGATIVE.search(before)
            found.append(Decimal(f"-{digits}" if negative else digits))
    return found


def _split(run: str, language: str) -> list[str]:
    """Numbers in digits with separators between them, each as Decimal reads it: as few as possible."""
    parts, start = [], 0
    ends = [found.start() for found in re.finditer(r"\D", run)] + [len(run)]
    while start < len(run):
        for end in reversed([end for end in ends if end > start]):
            if (digits := _reading(run[start:end], language)) is not None:
                parts.append(digits)
                start = end + 1
                break
    return parts


def _reading(run: str, language: str) -> str | None:
    """One number with a dot as its decimal sign; None where it is not written as one. Digits alone always are."""
    groups = _DOTTED.fullmatch(run)
    if groups and (run.count(".") > 1 or language in _DOT_GROUPS):
        return run.replace(".", "")
    if _WITH_DOT.fullmatch(run):
        return re.sub(r"[^\d.]", "", run)
    if _WITH_COMMA.fullmatch(run):
        return re.sub(r"[^\d,]", "", run).replace(",", ".")
    return None
