"""How a model writes: what is counted, what it applies to, and the intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from q3edge.evaluation.answers.behaviour import GeneratedAnswer, behaviour, language_kept, thinking_closed
from q3edge.evaluation.distance.statistics import wilson
from q3edge.evaluation.suites.suite import Item

ENGLISH = Item("en", "answer", "math", "en", "How many eggs does she have on each of the days in the week?")
CHINESE = replace(ENGLISH, id="zh", language="zh", prompt="她每天在市场上卖掉几个鸡蛋，一个星期里一共能够赚多少钱呢？")
JSON = replace(ENGLISH, id="json", answer_format="json")
CODE = replace(ENGLISH, id="code", kind="code")


def written(
    answer: str,
    *,
    thinking: str = "",
    text: str | None = None,
    end: Literal["stop", "length"] = "stop",
    tokens: int = 1,
) -> GeneratedAnswer:
    whole = text if text is not None else f"<think>\n{thinking}\n</think>\n\n{answer}" if thinking else answer
    return GeneratedAnswer(whole, thinking, answer, tokens, end, None)


NOT_ASKED = GeneratedAnswer("", "", "", 0, None, None, "the prompt is longer than the context")


@pytest.mark.parametrize(
    ("text", "thinking", "closed"),
    [
        ("18", "", None),
        ("<think>\n3 + 4\n</think>\n\n7", "3 + 4", True),
        ("<think>\n\n</think>\n\n7", "", True),
        ("<think>\n3 + 4", "3 + 4", False),
        ("<think>", "", False),
        ("3 + 4</think>7", "3 + 4", True),  # opened by the template
        ("3 + 4", "3 + 4", False),
        ("<think>a</think>b<think>c", "ac", False),
    ],
)
def test_thinking_closed(text: str, thinking: str, closed: bool | None) -> None:
    assert thinking_closed(written("7", thinking=thinking, text=text)) is closed


@pytest.mark.parametrize(
    ("item", "answer", "kept"),
    [
        (ENGLISH, "She has eighteen of them, and that is all.", True),
        (ENGLISH, "她每天在市场上卖掉十八个鸡蛋，所以一共赚了十八块钱。", False),
        (CHINESE, "她每天在市场上卖掉十八个鸡蛋，所以一共赚了十八块钱。", True),
        (CHINESE, "She has eighteen of them, and that is all.", False),
        (ENGLISH, "18", None),
        (ENGLISH, "十八", None),
        (replace(ENGLISH, prompt="3 + 4 = ?"), "She has eighteen of them, and that is all.", None),
        (CODE, "She has eighteen of them, and that is all.", None),
    ],
)
def test_language_kept(item: Item, answer: str, kept: bool | None) -> None:
    assert language_kept(item, written(answer)) is kept


def test_shares_count_what_they_apply_to() -> None:
    items = [ENGLISH, ENGLISH, JSON, JSON, ENGLISH]
    found = [
        written("18", thinking="3 + 4", tokens=10),
        written("18", end="length", tokens=30),
        written('```json\n{"a": 1}\n```', tokens=20),
        written("{", tokens=20),
        NOT_ASKED,
    ]
    result = behaviour(items, found)
    assert result is not None
    assert result.thinking_closed == wilson([True])
    assert result.ended == wilson([True, False, True, True])
    assert result.json_valid == wilson([True, False])
    assert result.language_kept is None
    assert (result.length.value, result.length.low) == (20, None)


def test_length_has_an_interval_where_there_are_enough() -> None:
    result = behaviour([ENGLISH] * 20, [written("x", tokens=tokens) for tokens in range(20)])
    assert result is not None
    assert result.length.value == 9.5
    assert result.length.low is not None
    assert result.length.high is not None
    assert 5 < result.length.low < 9.5 < result.length.high < 14


def test_nothing_asked() -> None:
    assert behaviour([ENGLISH], [NOT_ASKED]) is None
    with pytest.raises(ValueError, match="argument"):
        behaviour([ENGLISH], [])
