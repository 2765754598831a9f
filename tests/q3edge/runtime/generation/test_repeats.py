"""Loops are found with their length and number, beside a search of all periods, and real texts have none."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.repeats import Repeats
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.engine import CONTEXT, engine_of
from tests.helpers.runtime import FakeDecoder

DATA = Path(str(files("q3edge.data")))


def naive(ids: list[int]) -> int:
    """How often at most the end of the tokens has come, of parts that come to 128 tokens and of which 8 come again."""
    most = 0
    for period in range(1, len(ids) - 7):
        same = 0
        while same + period < len(ids) and ids[-1 - same] == ids[-1 - same - period]:
            same += 1
        if same >= 8 and same + period >= 128:
            most = max(most, (same + period) // period)
    return most


@settings(max_examples=50)
@given(
    before=st.lists(st.integers(0, 50), max_size=60),
    loop=st.lists(st.integers(0, 50), min_size=1, max_size=50),
    times=st.integers(0, 40),
    after=st.lists(st.integers(0, 50), max_size=40),
)
def test_loops_in_random_tokens_are_found(before: list[int], loop: list[int], times: int, after: list[int]) -> None:
    repeats, ids, most = Repeats(), list[int](), 0
    for token in [*before, *loop * times, *after]:
        ids.append(token)
        found = repeats.push(token)
        most = max(most, found)
        assert found <= naive(ids)
    period = next(p for p in range(1, len(loop) + 1) if (loop * 2)[p : p + len(loop)] == loop)
    copies = len(loop) * times // period
    if copies * period >= 128 + period and copies > 1:
        assert most >= copies - 1 - 8 // period
    if most >= 4:
        assert repeats.notice is not None
        assert repeats.notice.count <= most  # that of the longest loop, of which there may be several


def test_the_notice_says_how_much_comes_how_often() -> None:
    repeats = Repeats()
    for token in [*range(100), *[7] * 200, *range(50)]:
        repeats.push(token)
    assert repeats.notice is not None
    assert (repeats.notice.code, repeats.notice.count) == ("repeats", 200)
    assert repeats.notice.detail.startswith("the answer has the same token 200 times over; a presence_penalty")
    for token in list(range(1000, 1090)) * 5:
        repeats.push(token)
    assert repeats.notice.detail.startswith("the answer has the same 90 tokens 5 times over")


def test_a_loop_within_a_loop_is_told_as_the_outer_one() -> None:
    repeats, inner = Repeats(), [1] * 20 + [2]
    found = [repeats.push(token) for token in inner * 12]
    assert repeats.notice is not None
    assert "the same 21 tokens 11 times" in repeats.notice.detail
    assert found[-1] == 11


def texts() -> list[str]:
    """Every text that ships with the package, and this repository's tables and code."""
    found = [path.read_text(encoding="utf-8") for path in sorted((DATA / "validation").glob("*.txt"))]
    for path in sorted(DATA.glob("*/*.jsonl")):
        found += [json.dumps(json.loads(line), ensure_ascii=False) for line in path.read_text("utf-8").splitlines()]
    root = Path(__file__).resolve().parents[4]
    return found + [path.read_text("utf-8") for path in sorted(root.glob("docs/*.md"))]


def test_real_texts_have_none() -> None:
    tokenizer = Tokenizer.load(DATA / "demo_model", 1280)
    for text in texts():
        repeats = Repeats()
        for token in tokenizer.encode_markup(text):
            repeats.push(token)
        assert repeats.notice is None, text[:80]


@pytest.mark.parametrize("drafting", [False, True])
def test_an_answer_ends_after_so_many_repeats_where_that_is_asked_for(drafting: bool) -> None:
    decoder: Any = FakeDecoder(2)
    draft = NGramDraft() if drafting else None
    request = Request([1, 2], GenerationSettings(290, max_repeats=5), CONTEXT, draft=draft)
    list(engine_of(decoder).generate(request))
    free = Request([1, 2], GenerationSettings(290), CONTEXT)
    list(engine_of(decoder).generate(free))
    assert (len(free.new_ids), request.statistics.finish_reason) == (290, "length")
    assert free.repeats.notice is not None
    assert 128 <= len(request.new_ids) < 290
    assert request.new_ids == free.new_ids[: len(request.new_ids)]
    again = Repeats()
    counts = [again.push(token) for token in request.new_ids]
    assert counts[-1] >= 5 > max(counts[:-1])


def test_a_completion_tells_of_a_loop(model: Model) -> None:
    token = model.tokenizer.encode_markup("the")[0]
    done = model.generate("the cat", logit_bias={token: 100}, temperature=0, max_new_tokens=150)
    assert [(notice.code, notice.count) for notice in done.notices] == [("repeats", 150)]
    done = model.generate("the cat", logit_bias={token: 100}, temperature=0, max_new_tokens=150, presence_penalty=100)
    assert done.notices == ()
