"""Drafts propose what was seen and learn their acceptance rates; checking draft tokens costs no more than it may."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.speculation import MAX_DRAFT_TOKENS, AcceptanceRates, PassCosts, Speculation

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def proposed(draft: NGramDraft, ids: list[int], count: int = 12) -> list[int]:
    return [token for token, _ in islice(draft.propose(ids), count)]


def same_before(ids: list[int], source: int) -> int:
    """Number of tokens before `source` that equal the last ones of `ids`."""
    return next((n for n in range(source) if ids[source - 1 - n] != ids[-1 - n]), source)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_ngram_draft_tokens_continue_the_text_as_an_earlier_place_does(ids: list[int]) -> None:
    found = proposed(NGramDraft(), ids)
    sources = {source: same_before(ids, source) for source in range(1, len(ids))}
    longest = max(sources.values(), default=0)
    assert bool(found) == (longest >= 2)
    whole = ids + found
    least = min(longest, 4)
    assert not found or any(
        same >= least and found == whole[source : source + len(found)] for source, same in sources.items()
    )


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_ngram_draft_tokens_do_not_depend_on_earlier_proposals(ids: list[int], asked: list[int]) -> None:
    draft = NGramDraft()
    for length in sorted(asked):
        proposed(draft, ids[:length])
    assert proposed(draft, ids) == proposed(NGramDraft(), ids)


def test_ngram_draft_learns_without_being_checked() -> None:
    def chance(ids: list[int]) -> float:
        return next(iter(NGramDraft().propose(ids)))[1]

    assert chance([1, 2, 3] * 40) > 0.97
    steady = [i % 7 for i in range(70)]
    fickle = [token for i in range(70) for token in (1, 2, 3 + i)] + [1, 2]  # never goes on as before
    assert chance([*steady, 0, 1]) > chance(fickle)
    assert chance(fickle) < 0.05


class Fixed:
    """Draft that proposes one token for ever, always with the same chance."""

    def __init__(self, chance: float, cost: float = 0.0) -> None:
        self.chance, self.cost = chance, cost

    def propose(self, _ids: list[int]) -> Iterator[tuple[int, float]]:
        return repeat((7, self.chance))


def test_higher_chances_draft_more_tokens() -> None:
    def count(chance: float, cost: float = 0.0, limit: int = 100) -> int:
        return len(Speculation(Fixed(chance, cost), measured=False).propose([], limit))

    counts = [count(chance) for chance in (0.3, 0.6, 0.8, 0.9, 0.99, 1.0)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, MAX_DRAFT_TOKENS)
    assert count(1.0, limit=3) == 3
    assert count(1.0, limit=0) == 0
    assert count(0.9, cost=0.3) < count(0.9)


@pytest.mark.parametrize("tokens", [100, 1000, 5000])
def test_a_draft_that_is_always_rejected_costs_little(tokens: int) -> None:
    speculation, spent = Speculation(Fixed(0.9), measured=False), 0.0
    for _ in range(tokens):
        drafted = speculation.propose([], 100)
        spent += PassCosts().relative(1 + len(drafted))
        speculation.observe(len(drafted), 0, 0.0)
    assert spent - tokens < 5 + 0.03 * tokens


def test_a_draft_that_is_accepted_again_is_asked_again() -> None:
    speculation, accepted = Speculation(Fixed(0.9), measured=False), 0
    for step in range(1000):
        drafted = len(speculation.propose([], 100))
        speculation.observe(drafted, drafted if step > 200 else 0, 0.0)
        accepted += drafted if step > 200 else 0
    assert accepted > 1000


def test_draft_tokens_that_are_paid_for_are_checked_where_that_alone_pays() -> None:
    assert len(Speculation(Fixed(0.7, cost=0.5), measured=False).propose([], 100)) == 1
    assert len(Speculation(Fixed(0.3, cost=0.5), measured=False).propose([], 100)) == 0


def test_a_draft_that_costs_as_much_as_the_model_is_soon_left_alone() -> None:
    speculation, asked = Speculation(Fixed(0.9, cost=1.0), measured=False), 0
    for _ in range(1000):
        drafted = len(speculation.propose([], 100))
        speculation.observe(drafted, drafted, 0.0)
        asked += drafted
    assert asked < 40


def test_rests_grow_until_the_draft_has_been_accepted_for_a_while() -> None:
    speculation = Speculation(Fixed(0.9), measured=False)

    def asked(steps: int, accepted: bool) -> list[int]:
        found = []
        for step in range(steps):
            drafted = len(speculation.propose([], 100))
            speculation.observe(drafted, drafted * accepted, 0.0)
            found += [step] if drafted else []
        return found

    longest = max(b - a for a, b in pairwise(asked(4000, accepted=False)))
    assert longest > 1000
    assert asked(1200, accepted=True)
    assert max(b - a for a, b in pairwise(asked(100, accepted=False))) < 70


def test_measured_costs_follow_the_clock() -> None:
    costs = PassCosts()
    for rows in (1, 2, 5, 9, 3) * 20:
        costs.record(rows, 0.02 * (1 + 0.05 * (rows - 1)))
    assert costs.relative(1) == 1
    assert costs.relative(5) == pytest.approx(1.2, abs=0.1)
    before = costs.relative(9)
    costs.record(9, 100.0)  # the process was stopped for a while
    assert costs.relative(9) < 1.3 * before


def test_costs_before_a_pass_is_measured_are_those_of_a_slow_cpu() -> None:
    costs = PassCosts()
    assert costs.record(5, 1e-9) == costs.relative(5) == pytest.approx(2.2, abs=0.01)


def test_cheap_rows_allow_less_certain_draft_tokens() -> None:
    speculation = Speculation(Fixed(0.4), measured=True)
    assert speculation.propose([], 8) == []
    for rows in (1, 3, 9, 2) * 10:
        speculation.observe(rows - 1, 0, 0.02 * (1 + 0.02 * rows))
    assert any(speculation.propose([], 8) for _ in range(200))


def test_acceptance_rates_approach_what_happens() -> None:
    rates = AcceptanceRates([0.5, 0.5])
    for _ in range(200):
        rates.learn(1, True)
    assert rates[0] == 0.5
    assert rates[1] > 0.99
