"""Draft tokens and cached prefixes change the work, never the text: exact on a decoder of exact logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.engine.model_draft import ModelDraft
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.statistics import Statistics
from tests.helpers.runtime import FakeDecoder

PROMPT = [1, 2, 3, 4, 1, 2, 3]


class Prepared:
    """Draft that proposes `text`, with every `spoil`-th token wrong, each with chance 1."""

    cost = 0.0

    def __init__(self, text: list[int], spoil: int = 0) -> None:
        self.text, self.spoil = text, spoil

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        for position in range(len(ids), len(self.text)):
            wrong = self.spoil and position % self.spoil == 0
            yield (self.text[position] + bool(wrong)) % 12, 1.0


def new_tokens(decoder: Any, prompt: list[int], chosen: GenerationSettings, **named: Any) -> list[int]:
    return list(generate(decoder, prompt, chosen, **named))


def drafting(decoder: Any) -> ModelDraft:
    return ModelDraft(Slots(decoder), 0.0)


def fresh(decoder: Any) -> Engine:
    return Engine(Slots(decoder))


def held(engine: Engine) -> list[int]:
    """Tokens that the engine's only slot holds: they are those whose keys and values the cache holds."""
    if not engine.slots._slots:
        return []
    (slot,) = engine.slots._slots
    inside: Any = engine.slots._cache
    assert inside.rows[slot.row][: len(slot.ids)] == slot.ids
    assert not slot.taken
    return slot.ids


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.integers(1, 350),
    st.sets(st.integers(0, 11), max_size=2),
    st.integers(0, 6),
)
def test_draft_tokens_never_change_the_text(
    seed: int, temperature: float, most: int, stops: set[int], spoil: int
) -> None:
    decoder = FakeDecoder(seed % 7)
    chosen = GenerationSettings(most, temperature, top_k=6, seed=seed, stop_token_ids=frozenset(stops))
    plain_statistics = Statistics()
    plain = new_tokens(decoder, PROMPT, chosen, statistics=plain_statistics)
    free = new_tokens(decoder, PROMPT, GenerationSettings(most, temperature, top_k=6, seed=seed))
    drafts = (
        NGramDraft(),
        Prepared(PROMPT + free, spoil),
        drafting(FakeDecoder(seed % 3)),
    )
    for draft in drafts:
        engine, statistics = fresh(decoder), Statistics()
        assert new_tokens(decoder, PROMPT, chosen, statistics=statistics, engine=engine, draft=draft) == plain
        assert statistics.finish_reason == plain_statistics.finish_reason
        assert statistics.new_tokens == len(plain)
        assert statistics.decode_steps + statistics.accepted_tokens == plain_statistics.decode_steps
        assert statistics.accepted_tokens <= statistics.drafted_tokens
        assert held(engine) == (PROMPT + plain)[: len(held(engine))]


def test_accepted_draft_tokens_save_passes_up_to_the_end_of_the_context() -> None:
    decoder = FakeDecoder(1)
    greedy = GenerationSettings(10_000)
    plain = new_tokens(decoder, PROMPT, greedy)
    assert len(plain) == 293
    decoder.passes.clear()
    assert new_tokens(decoder, PROMPT, greedy, draft=Prepared(PROMPT + plain)) == plain
    assert len(decoder.passes) < 13
    assert max(decoder.passes) == 33


def test_a_text_that_repeats_itself_takes_fewer_passes() -> None:
    decoder, statistics = FakeDecoder(3), Statistics()
    new_tokens(decoder, PROMPT, GenerationSettings(150), statistics=statistics, draft=NGramDraft())
    assert statistics.decode_steps < 40
    assert statistics.accepted_tokens > 100


def test_the_same_model_as_its_own_draft_is_always_accepted() -> None:
    statistics = Statistics()
    draft = drafting(FakeDecoder(5))
    new_tokens(FakeDecoder(5), PROMPT, GenerationSettings(100), statistics=statistics, draft=draft)
    assert statistics.accepted_tokens == statistics.drafted_tokens > 50


def test_a_draft_with_a_short_context_stops_at_its_end() -> None:
    plain = new_tokens(FakeDecoder(5), PROMPT, GenerationSettings(100))
    statistics = Statistics()
    draft = drafting(FakeDecoder(5, context=40))
    decoder: Any = FakeDecoder(5)
    assert list(generate(decoder, PROMPT, GenerationSettings(100), statistics, draft=draft)) == plain
    assert 20 < statistics.drafted_tokens <= 40 - len(PROMPT)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.lists(st.integers(0, 11), min_size=1, max_size=30), st.integers(1, 12)),
        min_size=2,
        max_size=5,
    )
)
def test_a_cached_prefix_changes_nothing_but_the_work(turns: list[tuple[int, list[int], int]]) -> None:
    """Each turn keeps the beginning of the text and continues with something else."""
    decoder = FakeDecoder(2)
    engine, said = fresh(decoder), list[int]()
    for kept, more, most in turns:
        prompt, statistics = said[:kept] + more, Statistics()
        before = list(held(engine))
        new = new_tokens(decoder, prompt, GenerationSettings(most), statistics=statistics, engine=engine)
        assert new == new_tokens(FakeDecoder(2), prompt, GenerationSettings(most))
        same = next((i for i, (a, b) in enumerate(zip(before, prompt)) if a != b), min(len(before), len(prompt)))
        assert statistics.reused_tokens == max(0, min(same, len(prompt) - 2))
        assert held(engine) == (prompt + new)[:-1]
        said = prompt + new


def test_only_computed_tokens_count_for_the_prefill_speed() -> None:
    statistics = Statistics(prompt_tokens=30, reused_tokens=20, prefill_seconds=2.0)
    assert statistics.prefill_tokens_per_second == 5
    statistics = Statistics(decode_steps=10, decode_tokens=15, decode_seconds=3.0)
    assert statistics.decode_tokens_per_second == 5


@pytest.mark.parametrize("taken", [0, 1, 2, 5, 20])
def test_a_generation_left_unfinished_leaves_a_sound_cache(taken: int) -> None:
    decoder = FakeDecoder(1)
    plain = new_tokens(decoder, PROMPT, GenerationSettings(60))
    engine = fresh(decoder)
    tokens: Any = generate(decoder, PROMPT, GenerationSettings(60), engine=engine, draft=Prepared(PROMPT + plain, 7))  # type: ignore[arg-type]
    assert [next(tokens) for _ in range(taken)] == plain[:taken]
    tokens.close()
    assert len(held(engine)) < len(PROMPT + plain)
    assert new_tokens(decoder, PROMPT, GenerationSettings(60), engine=engine) == plain


@pytest.mark.parametrize("failing", range(1, 6))
def test_an_error_in_any_pass_leaves_a_sound_cache(failing: int) -> None:
    class Failing(FakeDecoder):
        def forward(self, input_ids: np.ndarray, cache: Any, **settings: Any) -> np.ndarray:
            logits = super().forward(input_ids, cache, **settings)  # as if interrupted after the kernel
            if len(self.passes) == failing:
                raise KeyboardInterrupt
            return logits

    decoder = Failing(1)
    plain = new_tokens(FakeDecoder(1), PROMPT, GenerationSettings(60))
    engine = fresh(decoder)
    with suppress(KeyboardInterrupt):
        new_tokens(decoder, PROMPT, GenerationSettings(60), engine=engine, draft=Prepared(PROMPT + plain, 9))
    assert len(held(engine)) < len(PROMPT + plain)
    assert new_tokens(decoder, PROMPT, GenerationSettings(60), engine=engine) == plain


def test_two_generations_on_one_slot_follow_each_other() -> None:
    decoder: Any = FakeDecoder(1)
    engine = fresh(decoder)
    first = generate(decoder, PROMPT, GenerationSettings(20), engine=engine)
    next(first)
    second = generate(decoder, PROMPT[::-1], GenerationSettings(20), engine=engine)
    assert list(second) == new_tokens(FakeDecoder(1), PROMPT[::-1], GenerationSettings(20))
    assert list(first) == new_tokens(FakeDecoder(1), PROMPT, GenerationSettings(20))[1:]
