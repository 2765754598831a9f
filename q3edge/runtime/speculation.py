"""Speculative decoding: how many guesses of a draft are worth checking in one pass. What a draft guesses by is its own.

A pass over several tokens reads the weights once, so checking guesses costs less than computing as many tokens in turn.
A guess is right if it is the token that the model itself chooses there (Leviathan et al., arXiv 2211.17192, with a
draft that is certain), so drafts change the speed of an answer and not its distribution.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

MAX_GUESSES = 32  # in one pass
_RATE = 1 / 32  # weight of the newest guess in a running average
_STEP_RATE = 1 / 8  # the same of a step's seconds: they grow with the text
_LEAST_GAIN = 1.05  # a pass that promises less is not worth the risk that its estimates are wrong
_CREDIT = 2.0  # steps that guessing may lose before it has to rest, and gains that it may save up against losses
_FIRST_REST, _LONGEST_REST = 64, 1024  # tokens
# (rows, steps) measured with int4 on two AVX2 cores without VNNI, where further rows are dear: 1.5 steps for 2 rows and
# 5 for 16, behind 256 to 4000 tokens of context alike.
_COMMON_COSTS = ((2, 1.45), (16, 4.95))


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

    Several rows lie on a straight line through the last passes measured. Until there are some, and for ever if none is
    recorded, it is the line of a CPU with dear rows: cheaper ones gain less than they could, but none loses.
    """

    def __init__(self) -> None:
        self.step_seconds: float | None = None  # None: no step measured yet
        self._passes: deque[tuple[int, float]] = deque(maxlen=32)
        self._fit()

    def steps(self, rows: int) -> float:
        """Expected steps of a pass over `rows` tokens."""
        return 1.0 if rows == 1 else self._base + self.further * rows

    def record(self, rows: int, seconds: float) -> float:
        """Take in a measured pass; its steps. What interrupts the process is cut off at twice the expected time."""
        if rows == 1:
            step = self.step_seconds or seconds
            self.step_seconds = step + _STEP_RATE * (min(seconds, 2 * step) - step)
            return 1.0
        if self.step_seconds is None:
            return self.steps(rows)
        steps = min(seconds / self.step_seconds, 2 * self.steps(rows))
        self._passes.append((rows, steps))
        self._fit()
        return steps

    def _fit(self) -> None:
        rows, steps = zip(*_COMMON_COSTS, *self._passes)
        weights = [0.5] * len(_COMMON_COSTS) + [1.0] * len(self._passes)
        slope, self._base = np.polyfit(rows, steps, 1, w=weights).tolist()
        self.further = max(slope, 0.0)  # of one more row


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
        best, best_rate = 0, _LEAST_GAIN
        reached = tokens = 1.0  # the chance that all guesses so far are right; expected tokens of the pass
        for guess, chance in islice(self._draft.propose(ids), min(limit, MAX_GUESSES)):
            guesses.append(guess)
            reached *= chance
            tokens += reached
            rate = tokens / (self._costs.steps(1 + len(guesses)) + self._guess_cost * len(guesses))
            if rate > best_rate:
                best, best_rate = len(guesses), rate
            if reached <= best_rate * (self._costs.further + self._guess_cost):
                break  # each further one brings less than the best has on average
        self._account_guesses(len(guesses), time.perf_counter() - start)
        return guesses[:best]

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
            self._guess_cost += _RATE * (self._spent / count - self._guess_cost)
