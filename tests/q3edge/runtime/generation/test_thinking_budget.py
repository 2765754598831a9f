"""A thinking budget is exact to the token: in any stream, alone and beside others, with and without drafts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from q3edge.errors import UsageError
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.penalties import Penalties
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.sampling import Sampler
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.thinking_budget import ThinkingBudget
from q3edge.runtime.text.thinking import ThinkingTokens
from tests.helpers.runtime import FakeDecoder

CONTEXT = 300
START, END, NEWLINE, WORD, SPECIAL, STOP = 3, 4, 5, 6, 10, 11
EARLY_STOP = (NEWLINE, WORD, WORD, END, NEWLINE)
EMPTY, BEGUN = (NEWLINE, NEWLINE, END, NEWLINE), (NEWLINE, END, NEWLINE)
TOKENS = ThinkingTokens(START, END, EARLY_STOP, EMPTY, BEGUN, frozenset({SPECIAL}))


def forced_next(prompt: Sequence[int], answer: Sequence[tuple[int, bool]], budget: int) -> tuple[int, ...]:
    """What is forced behind an answer of (token, whether it was forced), found by reading all of it from the start."""
    own = list(prompt)
    while SPECIAL in own:
        del own[: own.index(SPECIAL) + 1]
    thinks, used, block, in_prompt = False, 0, 0, 0
    for token, forced in [*((token, True) for token in own), *answer]:
        if token == END:
            thinks = False
        elif token == START and (not thinks or forced):
            thinks, block, in_prompt = True, 0, 0
        elif thinks:
            used, block, in_prompt = used + (not forced), block + (not forced), in_prompt + forced
    if not thinks or used < budget:
        return ()
    return EARLY_STOP if block else BEGUN if in_prompt else EMPTY


def expected(
    prompt: list[int], chosen: Callable[[list[int]], int], budget: int, most: int, stop: int | None = None
) -> list[int]:
    """The answer, a token at a time; `chosen` gives what the model chooses after the text so far."""
    answer: list[tuple[int, bool]] = []
    while len(answer) < most:
        forced = forced_next(prompt, answer, budget)
        new = forced or (chosen(prompt + [token for token, _ in answer]),)
        for token in new:
            if token == stop:
                return [token for token, _ in answer]
            answer.append((token, bool(forced)))
    return [token for token, _ in answer][:most]


ENDS = [[], [SPECIAL], [START], [START, NEWLINE], [START, NEWLINE, NEWLINE, END], [START, SPECIAL, 1], [END, 1]]


def a_prompt(random: Random) -> list[int]:
    """A prompt that has thought, in this turn or an earlier one, or opens the answer with thinking, or does neither."""
    return [random.randrange(12) for _ in range(random.randrange(4))] + [0, *random.choice(ENDS)]


def from_the_start(stream: list[int]) -> Callable[[list[int]], int]:
    """A model that chooses the tokens of the stream one after another, whatever the text."""
    left = iter(stream)
    return lambda _text: next(left)


def test_ten_thousand_streams_of_tokens_are_stopped_where_a_reading_of_the_whole_says() -> None:
    random, stopped, first = Random(5), 0, 0
    for _ in range(10_000):
        prompt, budget, most = a_prompt(random), random.choice([0, 1, 2, 5, 9]), random.randrange(1, 31)
        stream = random.choices(range(12), [random.choice([0.3, 1, 3]) for _ in range(12)], k=most)
        machine, draw = ThinkingBudget(budget, TOKENS, prompt), from_the_start(stream)
        found = [*machine.first]
        while len(found) < most:
            room, token = machine.room, draw([])
            forced = machine.push(token)
            if room is not None and token != END:
                assert machine.room == (room - 1 or None)
            found += [token, *forced]
            stopped += bool(forced)
        assert found[:most] == expected(prompt, from_the_start(stream), budget, most)
        first += bool(machine.first)
    assert stopped > 5000
    assert first > 300


def a_decoder(seed: int) -> FakeDecoder:
    """One that often begins to think, and rarely stops; it repeats itself, so drafts are accepted."""
    decoder = FakeDecoder(seed, context=CONTEXT)
    decoder.logits[:, :, START] += 2
    decoder.logits[:, :, [END, STOP]] -= 1
    return decoder


def by_reading(decoder: FakeDecoder, prompt: list[int], chosen: GenerationSettings) -> list[int]:
    """The answer without engine, cache, drafts or state, but the one of the random numbers."""
    sampler = Sampler(chosen.temperature, seed=chosen.seed)

    def choose(text: list[int]) -> int:
        penalties = Penalties(chosen, prompt)
        for token in text[len(prompt) :]:
            penalties.append(token)
        return sampler(penalties(decoder.logits[tuple([0, *text][-2:])]))

    assert chosen.thinking_budget is not None
    return expected(prompt, choose, chosen.thinking_budget, chosen.max_new_tokens, STOP)


def some_settings(random: Random) -> GenerationSettings:
    return GenerationSettings(
        random.randrange(1, 40), random.choice([0.0, 1.0]), seed=random.randrange(100),
        stop_token_ids=frozenset({STOP}), thinking_budget=random.choice([0, 1, 3, 8]),
        repetition_penalty=random.choice([1.0, 1.0, 1.2]),
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "deterministic"), [(1, False), (5, False), (5, True)])
def test_answers_alone_and_in_batches_are_stopped_to_the_token(rows: int, deterministic: bool) -> None:
    random, stopped, accepted = Random(rows), 0, 0
    for seed in range(280):
        decoder: Any = a_decoder(seed)
        engine = Engine(Slots(decoder, rows), deterministic=deterministic)
        asked: dict[int, tuple[Request, list[int], GenerationSettings]] = {}
        for _ in range(12):
            prompt, chosen = a_prompt(random), some_settings(random)
            draft = NGramDraft() if random.random() < 0.5 else None
            request = Request(prompt, chosen, CONTEXT, draft=draft, thinking=TOKENS)
            asked[engine.add(request)] = request, prompt, chosen
        told: dict[int, list[int]] = {number: [] for number in asked}
        while engine.busy:
            for event in engine.step():
                assert event.error is None
                told[event.id] += event.tokens
        for number, (request, prompt, chosen) in asked.items():
            assert told[number] == request.new_ids == by_reading(decoder, prompt, chosen)
            assert request.statistics.new_tokens == len(request.new_ids) <= chosen.max_new_tokens
            stopped += request.statistics.forced_tokens > 0
            accepted += request.statistics.accepted_tokens
    assert stopped > 1500
    assert accepted > 30


def test_an_answer_that_no_budget_stopped_is_the_answer_with_every_larger_one() -> None:
    random, same, stopped = Random(23), 0, 0
    for seed in range(600):
        decoder: Any = a_decoder(seed)
        prompt, chosen = a_prompt(random), some_settings(random)
        small = Request(prompt, chosen, CONTEXT, thinking=TOKENS)
        assert list(Engine(Slots(decoder)).generate(small)) == small.new_ids
        larger = None if random.random() < 0.3 else (chosen.thinking_budget or 0) + random.randrange(1, 9)
        other = Request(prompt, replace(chosen, thinking_budget=larger), CONTEXT, thinking=TOKENS)
        assert list(Engine(Slots(decoder)).generate(other)) == other.new_ids
        if small.statistics.forced_tokens:
            stopped += small.new_ids != other.new_ids
        else:
            assert small.new_ids == other.new_ids
            assert other.statistics.forced_tokens == 0
            same += 1
    assert same > 100
    assert stopped > 100


class Eager:
    """A draft that is sure of any number of tokens."""

    cost = 0.0

    def propose(self, _ids: list[int]) -> Iterator[tuple[int, float]]:
        """Propose a word again and again."""
        while True:
            yield WORD, 1.0


def only(token: int, rows: int) -> np.ndarray:
    """Logits of `rows` positions at which the model chooses `token`."""
    return np.tile(np.eye(12, dtype=np.float32)[token], (rows, 1))


def test_no_draft_token_is_beyond_the_budget_and_forced_ones_are_computed_in_one_pass() -> None:
    settings = GenerationSettings(40, thinking_budget=3)
    request = Request([1, START], settings, CONTEXT, draft=Eager(), thinking=TOKENS)
    assert request.next_ids(9) == [1, START]
    assert request.advance(only(WORD, 1)) == [WORD]
    assert request.next_ids(9) == [WORD, WORD]  # the second is a draft token, and the third would be too many
    assert request.advance(only(WORD, 2)) == [WORD, WORD, *EARLY_STOP]
    assert request.next_ids(9) == [WORD, *EARLY_STOP]
    assert (request.keep, request.computed) == (1, 4)
    assert request.advance(only(WORD, 1)) == [WORD]
    assert len(request.next_ids(9)) > 9  # drafts go on in the answer
    found = request.statistics
    assert (found.new_tokens, found.forced_tokens, found.decode_steps) == (9, 5, 2)


def test_a_long_forced_text_is_computed_in_parts_without_drafts() -> None:
    settings = GenerationSettings(40, thinking_budget=0)
    request = Request([1], settings, CONTEXT, draft=Eager(), thinking=TOKENS)
    request.next_ids(9)
    assert request.advance(only(START, 1)) == [START, *EMPTY]
    assert request.next_ids(2) == [START, NEWLINE]
    assert request.advance(only(WORD, 1)) == []  # in the midst of what is forced, nothing is chosen
    assert request.next_ids(3) == [NEWLINE, END, NEWLINE]
    assert request.advance(only(WORD, 1)) == [WORD]


@pytest.mark.parametrize(
    ("most", "stop", "given", "reason"),
    [
        (3, STOP, [WORD, NEWLINE, WORD], "length"),
        (9, END, [WORD, NEWLINE, WORD, WORD], "stop"),
        (9, WORD, [], "stop"),  # a stop token is no thinking
    ],
)
def test_the_limit_of_tokens_and_stop_tokens_hold_in_what_is_forced(
    most: int, stop: int, given: list[int], reason: str
) -> None:
    settings = GenerationSettings(most, thinking_budget=1, stop_token_ids=frozenset({stop}))
    request = Request([1, START], settings, CONTEXT, thinking=TOKENS)
    request.next_ids(9)
    assert request.advance(only(WORD, 1)) == given == request.new_ids
    assert (request.finished, request.statistics.finish_reason) == (True, reason)
    assert request.statistics.forced_tokens == max(len(given) - 1, 0)


def test_an_answer_that_ends_before_takes_nothing_forced() -> None:
    settings = GenerationSettings(9, thinking_budget=1)
    request = Request([1, START], settings, CONTEXT, thinking=TOKENS, watch=lambda token: token == WORD)
    request.next_ids(9)
    assert request.advance(only(WORD, 1)) == [WORD]
    assert (request.finished, request.statistics.forced_tokens) == (True, 0)


def test_penalties_see_what_is_forced() -> None:
    settings = GenerationSettings(9, thinking_budget=1, presence_penalty=5)
    request = Request([1, START], settings, CONTEXT, thinking=TOKENS)
    request.next_ids(9)
    request.advance(only(0, 1))
    request.next_ids(9)
    logits = only(WORD, 1)
    logits[0, 7] = 0.5
    assert request.advance(logits) == [7]  # WORD would have been chosen, had it not been forced before


def test_a_budget_for_a_model_without_thinking_is_refused() -> None:
    problem = "thinking_budget = 7: the model's tokenizer has no <think> and </think>"
    with pytest.raises(UsageError, match=problem):
        Request([1], GenerationSettings(thinking_budget=7), CONTEXT)
    decoder: Any = FakeDecoder()
    with pytest.raises(UsageError, match=problem):
        generate(decoder, [1], GenerationSettings(thinking_budget=7))
    chosen = GenerationSettings(9, thinking_budget=0)
    assert tuple(generate(decoder, [1, START], chosen, thinking=TOKENS))[:4] == EMPTY


@pytest.mark.parametrize("at_most", [1, 2, 256])
def test_tokens_that_are_forced_count_alike_however_many_go_through_a_pass(at_most: int) -> None:
    decoder, prompt = a_decoder(1), [0, START]
    decoder.logits[:, :, [START, END, STOP]] = -100  # so that the budget ends the thinking
    request = Request(prompt, GenerationSettings(20, thinking_budget=3), CONTEXT, thinking=TOKENS)
    while not request.finished:
        ids = request.next_ids(at_most)
        request.advance(decoder.logits[0, 0][None] if ids else np.empty(0, np.float32))
    found = request.statistics
    assert found.forced_tokens == len(EARLY_STOP)
    assert found.decode_tokens == found.new_tokens - 1  # the first came of the prompt
    together = 1 + len(EARLY_STOP)  # the token before them has not gone through a pass either
    assert found.decode_steps == found.decode_tokens - together + -(-together // at_most)
