"""Answers in a format: the tokens of a search over all texts, whatever the passes; thinking before them is free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.runtime.generation.answer_format import AnswerFormat
from q3edge.runtime.generation.constraint import Constraint, Openings, answer_openings
from q3edge.runtime.generation.grammars import Grammars
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.text.thinking import ThinkingTokens
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import MARKUP_TOKENS, SPECIAL_TOKENS, build_tokenizer

VOCABULARY = 304  # with ids that have no token
TOKENIZER = Tokenizer(build_tokenizer(), "tokenizer", VOCABULARY)
GRAMMARS = Grammars(TOKENIZER, VOCABULARY)
TEXT_OF = TOKENIZER.token_bytes()
ENDOFTEXT, _, STOP, THINK, THINK_END = (TOKENIZER.added_ids[name] for name in (*SPECIAL_TOKENS, *MARKUP_TOKENS))
NEWLINES = GRAMMARS.newlines()
STOPS = frozenset({STOP, ENDOFTEXT})
PROMPT = [1, 2, 3]
TEXTS = st.lists(
    st.text(st.sampled_from('ab 1é"\\\n日cathe'), max_size=9), min_size=1, max_size=6, unique=True
)  # languages


@pytest.fixture(scope="module", autouse=True)
def _ended() -> Iterator[None]:
    yield
    GRAMMARS.close()


def logits_after(ids: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Logits that depend on the last two tokens, as if a model had computed them."""
    return np.random.default_rng([seed, *ids[-2:]]).standard_normal(VOCABULARY).astype(np.float32)


def answered(seed: int, constraint: Constraint, most: int = 60, **named: Any) -> Request:
    """Finished request for such a model."""
    chosen = GenerationSettings(most, stop_token_ids=STOPS)
    request = Request(PROMPT, chosen, 1000, constraint=constraint, **named)
    while not request.finished:
        text = request.ids[: request.computed] + request.next_ids(2)
        request.advance(np.stack([logits_after(text[: len(text) - i], seed) for i in reversed(range(request.keep))]))
    return request


def check_greedy(found: Request, seed: int, language: Sequence[str]) -> None:
    """Check every token of a greedy answer that is to be one of the texts of `language` by trying all tokens.

    It is the best of those that some text goes on with. Where only one byte can follow, the library leaves the choice
    of the token to the tokenizer: any of those.
    """
    texts, said = [text.encode() for text in language], b""
    for place in range(len(PROMPT), len(found.ids) + 1):
        scores = logits_after(found.ids[:place], seed)
        left = [text[len(said) :] for text in texts if text.startswith(said)]
        possible = {
            token: scores[token]
            for token in range(ENDOFTEXT)
            if (follows := TEXT_OF.get(token)) and any(text.startswith(follows) for text in left)
        }
        if b"" in left:
            possible |= {token: scores[token] for token in STOPS}
        best = max(possible, key=lambda token: possible[token])
        if place == len(found.ids):
            assert best in STOPS
            return
        token = found.ids[place]
        assert token in possible
        assert token == best or (b"" not in left and len({text[0] for text in left}) == 1)
        said += TEXT_OF[token]
        if not any(text.startswith(said) and text != said for text in texts):
            assert place + 1 == len(found.ids)  # nothing can follow, so that no stop token is needed
            return


def schema_of(language: Sequence[str]) -> AnswerFormat:
    return AnswerFormat("schema", json.dumps({"enum": list(language)}))


def regex_of(language: Sequence[str]) -> AnswerFormat:
    escaped = ["".join(f"\\x{{{ord(character):X}}}" for character in text) for text in language]
    return AnswerFormat("regex", "|".join(f"({text})" for text in escaped))


class Spoilt:
    """Draft of the right tokens, but for every third."""

    cost = 0.0

    def __init__(self, text: Sequence[int]) -> None:
        self._text = text

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        for place in range(len(ids), len(self._text)):
            yield (self._text[place] + (place % 3 == 0)) % VOCABULARY, 1.0


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(0, 10**6))
def test_a_greedy_answer_is_that_of_a_search_over_all_tokens(language: list[str], seed: int) -> None:
    plain = ["".join(character for character in text if character not in '"\\\n') for text in language]
    for answer_format, texts in (
        (regex_of(language), language),
        (schema_of(plain), [f'"{text}"' for text in plain]),  # with characters that JSON writes in one way
    ):
        alone = answered(seed, Constraint(GRAMMARS.matcher(answer_format), sorted(STOPS)))
        check_greedy(alone, seed, texts)
        assert TOKENIZER.decode(alone.new_ids) in texts
        assert alone.statistics.finish_reason == "stop"
        again = Constraint(GRAMMARS.matcher(answer_format), sorted(STOPS))
        assert answered(seed, again, draft=Spoilt(alone.ids)).new_ids == alone.new_ids


def test_an_answer_ends_where_nothing_can_follow_even_without_a_stop_token() -> None:
    for stops in (STOPS, frozenset[int]()):
        chosen = GenerationSettings(50, stop_token_ids=stops)
        constraint = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "cat")), sorted(stops))
        request = Request(PROMPT, chosen, 1000, constraint=constraint)
        while not request.finished:
            request.next_ids(9)
            request.advance(np.zeros((1, VOCABULARY), np.float32))
        assert TOKENIZER.decode(request.new_ids) == "cat"
        assert request.statistics.finish_reason == "stop"
        assert constraint.kept


def test_an_answer_that_the_limit_cuts_says_so() -> None:
    constraint = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "[a-z]{40}")), sorted(STOPS))
    request = answered(3, constraint, most=4)
    assert (len(request.new_ids), request.statistics.finish_reason, constraint.kept) == (4, "length", False)


def text_ids(text: str) -> list[int]:
    return TOKENIZER.encode_text(text)


def allowed(constraint: Constraint) -> set[int]:
    """Tokens that may come."""
    return set(np.flatnonzero(constraint(np.zeros(VOCABULARY, np.float32)) == 0).tolist())


def test_thinking_is_free_and_the_format_holds_behind_it() -> None:
    openings = Openings((THINK, THINK_END), newlines=NEWLINES)
    constraint = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "cat|dog")), sorted(STOPS), openings)
    begin = {token for token, text in TEXT_OF.items() if text and (b"cat".startswith(text) or b"dog".startswith(text))}
    assert allowed(constraint) == begin | {THINK}
    constraint.push(THINK)
    for token in text_ids("\nthe dog sat\n"):
        assert len(allowed(constraint)) == VOCABULARY
        constraint.push(token)
    assert constraint.kept
    constraint.push(THINK_END)
    assert allowed(constraint) == begin | NEWLINES
    for _ in range(2):
        assert not constraint.kept
        constraint.push(min(NEWLINES))
    assert allowed(constraint) == begin
    for token in text_ids("cat"):
        assert not constraint.complete
        constraint.push(token)
    assert constraint.complete
    assert allowed(constraint) == STOPS
    constraint.push(STOP)
    assert constraint.kept


def test_thinking_that_the_prompt_opens_and_an_answer_without_thinking() -> None:
    tokens = ThinkingTokens.of(TOKENIZER)
    assert tokens is not None
    prompts = {"": (True, False), "<think>\n": (True, True), "<think>\n\n</think>\n\n": (False, False)}
    for text, (may_think, opened) in prompts.items():
        prompt = TOKENIZER.encode_markup("<|im_start|>assistant\n" + text)
        for hybrid in (True, False):
            found = answer_openings(tokens, prompt, newlines=NEWLINES, hybrid=hybrid)
            assert (found.thinking is not None, found.opened) == (may_think and (hybrid or opened), opened)
    assert answer_openings(None, PROMPT, newlines=NEWLINES, hybrid=True).thinking is None


def test_what_begins_something_else_frees_the_answer() -> None:
    openings = Openings((THINK, THINK_END), newlines=NEWLINES, freeing=frozenset({ENDOFTEXT}))
    for before in ([], [THINK, THINK_END], [THINK, THINK_END, *[min(NEWLINES)] * 2]):
        constraint = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "cat")), [STOP], openings)
        for token in before:
            constraint.push(token)
        assert ENDOFTEXT in allowed(constraint)
        constraint.push(ENDOFTEXT)
        assert len(allowed(constraint)) == VOCABULARY
        assert constraint.kept
        assert not constraint.complete
    begun = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "cat")), [STOP], openings)
    begun.push(text_ids("c")[0])
    assert ENDOFTEXT not in allowed(begun)


def test_control_tokens_are_no_text_and_a_wrong_token_is_refused() -> None:
    anything = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "(?s:.*)")), [STOP])
    found = allowed(anything)
    assert found & {ENDOFTEXT, THINK, THINK_END} == set()
    assert found >= {token for token, text in TEXT_OF.items() if token < ENDOFTEXT and text.isascii()}
    spelled = Constraint(GRAMMARS.matcher(AnswerFormat("regex", "<think>x")), [STOP])
    for token in text_ids("<think>x"):
        spelled.push(token)
    assert spelled.complete
    with pytest.raises(UsageError, match="regex: the answer cannot go on"):
        Constraint(GRAMMARS.matcher(AnswerFormat("regex", "cat")), []).push(text_ids("d")[0])
