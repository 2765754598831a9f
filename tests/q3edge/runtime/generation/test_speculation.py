"""Drafts guess what was seen, learn what they are worth, and checking their guesses does not cost more than it may."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.speculation import MAX_GUESSES, Chances, Costs, Speculation

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def guesses(draft: NGramDraft, ids: list[int], count: int = 12) -> list[int]:
    return [guess for guess, _ in islice(draft.propose(ids), count)]


def same_before(ids: list[int], source: int) -> int:
    """Tokens before `source` that equal the last ones of `ids`."""
    return next((n for n in range(source) if ids[source - 1 - n] != ids[-1 - n]), source)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_ngram_guesses_continue_the_text_as_an_earlier_place_does(ids: list[int]) -> None:
    found = guesses(NGramDraft(), ids)
    sources = {source: same_before(ids, source) for source in range(1, len(ids))}
    longest = max(sources.values(), default=0)
    assert bool(found) == (longest >= 2)
    whole = ids + found
    least = min(longest, 4)
    assert not found or any(
        same >= least and found == whole[source : source + len(found)] for source, same in sources.items()
    )


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_ngram_guesses_do_not_depend_on_when_it_was_asked(ids: list[int], asked: list[int]) -> None:
    draft = NGramDraft()
    for length in sorted(asked):
        guesses(draft, ids[:length])
    assert guesses(draft, ids) == guesses(NGramDraft(), ids)


def test_ngram_draft_learns_without_being_checked() -> None:
    def chance(ids: list[int]) -> float:
        return next(iter(NGramDraft().propose(ids)))[1]

    assert chance([1, 2, 3] * 40) > 0.97
    steady = [i % 7 for i in range(70)]
    fickle = [token for i in range(70) for token in (1, 2, 3 + i)] + [1, 2]  # never goes on as before
    assert chance([*steady, 0, 1]) > chance(fickle)
    assert chance(fickle) < 0.05


class Fixed:
    """Guesses the same token for ever, always as sure of it."""

    def __init__(self, chance: float, cost: float = 0.0) -> None:
        self.chance, self.cost = chance, cost

    def propose(self, _ids: list[int]) -> Iterator[tuple[int, float]]:
        return repeat((7, self.chance))


def test_the_surer_the_more() -> None:
    def count(chance: float, cost: float = 0.0, limit: int = 100) -> int:
        return len(Speculation(Fixed(chance, cost), measured=False).propose([], limit))

    counts = [count(chance) for chance in (0.3, 0.6, 0.8, 0.9, 0.99, 1.0)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, MAX_GUESSES)
    assert count(1.0, limit=3) == 3
    assert count(1.0, limit=0) == 0
    assert count(0.9, cost=0.3) < count(0.9)


@pytest.mark.parametrize("tokens", [100, 1000, 5000])
def test_a_draft_that_is_always_wrong_costs_little(tokens: int) -> None:
    speculation, spent = Speculation(Fixed(0.9), measured=False), 0.0
    for _ in range(tokens):
        guessed = speculation.propose([], 100)
        spent += Costs().steps(1 + len(guessed))
        speculation.observe(len(guessed), 0, 0.0)
    assert spent - tokens < 5 + 0.03 * tokens


def test_a_draft_that_is_right_again_is_asked_again() -> None:
    speculation, right = Speculation(Fixed(0.9), measured=False), 0
    for step in range(1000):
        guessed = len(speculation.propose([], 100))
        speculation.observe(guessed, guessed if step > 200 else 0, 0.0)
        right += guessed if step > 200 else 0
    assert right > 1000


def test_guesses_that_are_paid_for_are_checked_where_that_alone_pays() -> None:
    assert len(Speculation(Fixed(0.7, cost=0.5), measured=False).propose([], 100)) == 1
    assert len(Speculation(Fixed(0.3, cost=0.5), measured=False).propose([], 100)) == 0


def test_a_draft_that_costs_as_much_as_the_model_is_soon_left_alone() -> None:
    speculation, asked = Speculation(Fixed(0.9, cost=1.0), measured=False), 0
    for _ in range(1000):
        guessed = len(speculation.propose([], 100))
        speculation.observe(guessed, guessed, 0.0)
        asked += guessed
    assert asked < 40


def test_rests_grow_until_the_draft_has_been_right_for_a_while() -> None:
    speculation = Speculation(Fixed(0.9), measured=False)

    def asked(steps: int, right: bool) -> list[int]:
        found = []
        for step in range(steps):
            guessed = len(speculation.propose([], 100))
            speculation.observe(guessed, guessed * right, 0.0)
            found += [step] if guessed else []
        return found

    longest = max(b - a for a, b in pairwise(asked(4000, right=False)))
    assert longest > 1000
    assert asked(1200, right=True)
    assert max(b - a for a, b in pairwise(asked(100, right=False))) < 70


def test_measured_costs_follow_the_clock() -> None:
    costs = Costs()
    for rows in (1, 2, 5, 9, 3) * 20:
        costs.record(rows, 0.02 * (1 + 0.05 * (rows - 1)))
    assert costs.steps(1) == 1
    assert costs.steps(5) == pytest.approx(1.2, abs=0.1)
    before = costs.steps(9)
    costs.record(9, 100.0)  # the process was stopped for a while
    assert costs.steps(9) < 1.3 * before


def test_costs_before_a_step_is_measured_are_those_of_a_slow_cpu() -> None:
    costs = Costs()
    assert costs.record(5, 1e-9) == costs.steps(5) == pytest.approx(2.2, abs=0.01)


def test_cheap_rows_allow_less_certain_guesses() -> None:
    speculation = Speculation(Fixed(0.4), measured=True)
    assert speculation.propose([], 8) == []
    for rows in (1, 3, 9, 2) * 10:
        speculation.observe(rows - 1, 0, 0.02 * (1 + 0.02 * rows))
    assert any(speculation.propose([], 8) for _ in range(200))


def test_chances_approach_what_happens() -> None:
    chances = Chances([0.5, 0.5])
    for _ in range(200):
        chances.learn(1, True)
    assert chances[0] == 0.5
    assert chances[1] > 0.99
