"""Speculative decoding: how many guesses of a draft are worth checking in one pass. What a draft guesses by is its own.

A pass over several tokens reads the weights once, so checking guesses costs less than computing as many tokens in turn.
A guess is right if it is the token that the model itself chooses there (Leviathan et al., arXiv 2211.17192, with a
draft that is certain), so drafts change the speed of an answer and not its distribution.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

MAX_GUESSES = 32  # in one pass
_RATE = 1 / 32  # weight of the newest guess in a running average
_COST_RATE = 1 / 8  # the same of what passes and guesses take, which grows with the text
_LEAST_GAIN = 1.05  # a pass that promises less is not worth the risk that its estimates are wrong
_CREDIT = 2.0  # steps that guessing may lose before it has to rest, and gains that it may save up against losses
_FIRST_REST, _LONGEST_REST = 64, 1024  # tokens
# Steps of several rows beyond those of one: once, and for each further row. Measured with int4 on two AVX2 cores
# without VNNI, where rows are dear: 1.1 to 1.5 steps for 2 rows, 4 to 5 for 16, behind 256 to 4000 tokens of context.
_SEVERAL_ROWS, _FURTHER_ROW = 0.2, 0.25
_CHEAPEST = 0.05  # no row is free, whatever the noise of the clock says


class Draft(Protocol):
    """Guesses how one text goes on. It is told nothing but the text, which also tells how right its guesses were."""

    cost: float  # of one guess, in steps (passes of the model over one token)

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        """Tokens that may follow `ids`, in turn, each with its chance to be right if all before it are.

        `ids` is what it was in the last call and more behind that. Whoever asks stops when the chances get too small.
        """


class Chances:
    """How often guesses of each kind were right: running averages, by which a draft learns what it is worth."""

    def __init__(self, first: Sequence[float]) -> None:
        """`first`: what to expect of each kind, numbered from 0, before there is any experience."""
        self._chances = list(first)

    def __getitem__(self, kind: int) -> float:
        return self._chances[kind]

    def learn(self, kind: int, right: bool) -> None:
        """Take in how one guess turned out."""
        self._chances[kind] += _RATE * (right - self._chances[kind])


class Costs:
    """Steps that a pass takes by its rows; a step is a pass over one token.

    Rows beyond the first cost what they do on a CPU where they are dear, times a factor that follows the passes
    measured. Where none is recorded it stays 1: cheaper rows then gain less than they could, and none loses.
    """

    def __init__(self) -> None:
        self.step_seconds: float | None = None  # None: no step measured yet
        self._measured = self._usual = 1.0  # running averages: steps beyond the first that passes took, and would there

    @property
    def further(self) -> float:
        """Steps of one more row."""
        return _FURTHER_ROW * max(self._measured / self._usual, _CHEAPEST)

    def steps(self, rows: int) -> float:
        """Expected steps of a pass over `rows` tokens."""
        return 1 + self.further / _FURTHER_ROW * _usual_steps(rows)

    def record(self, rows: int, seconds: float) -> float:
        """Take in a measured pass; its steps. What interrupts the process is cut off at twice the expected time."""
        step = self.step_seconds or (seconds if rows == 1 else None)
        if step is None:
            return self.steps(rows)
        seconds = min(seconds, 2 * step * self.steps(rows))
        if rows == 1:
            self.step_seconds = step + _COST_RATE * (seconds - step)
            return 1.0
        self._measured += _COST_RATE * (seconds / step - 1 - self._measured)
        self._usual += _COST_RATE * (_usual_steps(rows) - self._usual)
        return seconds / step


def _usual_steps(rows: int) -> float:
    """Beyond the first."""
    return _SEVERAL_ROWS + _FURTHER_ROW * (rows - 1) if rows > 1 else 0.0


class Speculation:
    """One generation's guesses: asks the draft, weighs chances against costs, and lets the draft rest if it loses.

    `measured` costs follow the clock, so two runs may check different guesses. Kernels for one row and for several add
    in different orders, so a near tie may then fall another way. Costs that are not measured make text repeatable.
    """

    def __init__(self, draft: Draft, *, measured: bool) -> None:
        self._draft, self._measured = draft, measured
        self._costs = Costs()
        self._guess_cost = draft.cost
        self._spent = 0.0  # steps that the last guesses took
        self._balance = 0.0  # steps won and lost
        self._rest, self._next_rest = 0, _FIRST_REST

    def propose(self, ids: list[int], limit: int) -> list[int]:
        """Guesses to check behind `ids`, at most `limit`: the number that promises the most tokens a step, often 0."""
        self._spent = 0.0
        if self._rest > 0:
            self._rest -= 1
            return []
        start = time.perf_counter()
        guesses: list[int] = []
        promised = [1.0]  # tokens of a pass over so many guesses
        reached, best_rate = 1.0, _LEAST_GAIN  # the chance that all guesses so far are right; tokens a step
        for guess, chance in islice(self._draft.propose(ids), min(limit, MAX_GUESSES)):
            guesses.append(guess)
            reached *= chance
            promised.append(promised[-1] + reached)
            steps = self._costs.steps(1 + len(guesses)) + self._guess_cost * len(guesses)
            best_rate = max(best_rate, promised[-1] / steps)
            if reached <= best_rate * (self._costs.further + self._guess_cost):
                break  # another one would bring less than the best do on average
        self._account_guesses(len(guesses), time.perf_counter() - start)
        promised[0] *= _LEAST_GAIN
        return guesses[: self._worth_checking(promised)]

    def _worth_checking(self, promised: list[float]) -> int:
        """How many guesses promise the most tokens a step, now that all are paid for, checked or not."""
        steps = [self._costs.steps(1 + count) + self._spent for count in range(len(promised))]
        return max(range(len(promised)), key=lambda count: promised[count] / steps[count])

    def observe(self, guesses: int, right: int, seconds: float) -> None:
        """How the pass over one token and `guesses` turned out, and how long it took."""
        rows = 1 + guesses
        steps = self._costs.record(rows, seconds) if self._measured else self._costs.steps(rows)
        self._balance = min(self._balance + 1 + right - steps - self._spent, _CREDIT)
        if self._balance < -_CREDIT:
            self._rest, self._balance = self._next_rest, 0.0
            self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
        elif self._balance == _CREDIT:
            self._next_rest = _FIRST_REST

    def _account_guesses(self, count: int, seconds: float) -> None:
        self._spent = self._guess_cost * count
        if self._measured and self._costs.step_seconds and count:
            self._spent = min(seconds / self._costs.step_seconds, 2 * self._spent)
            self._guess_cost += _COST_RATE * (self._spent / count - self._guess_cost)
