"""Speculative decoding: how many draft tokens to check in one pass. `ngram_draft` and `model_draft` propose them.

A pass over several tokens reads the weights once, so checking draft tokens costs less than computing as many in turn.
A draft token is accepted if the model itself chooses it there (Leviathan et al., arXiv 2211.17192, with a draft that
gives its token probability 1), so drafts change the speed of an answer and not its distribution.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

MAX_DRAFT_TOKENS = 32  # in one pass
_RATE = 1 / 32  # weight of the newest draft token in a running average
_COST_RATE = 1 / 8  # the same for the costs of passes and drafting, which grow with the text
_LEAST_GAIN = 1.05  # a pass that promises less is not worth the risk that its estimates are wrong
_CREDIT = 2.0  # single-token passes that drafting may lose before it pauses, and gain in advance against losses
_FIRST_REST, _LONGEST_REST = 64, 1024  # passes without drafting
# Cost of a pass over several rows beyond that of one row, in single-token passes: once, and for each further row.
# Measured with int4 on two AVX2 cores without VNNI, where extra rows are expensive: 1.1 to 1.5 for 2 rows, 4 to 5 for
# 16, after 256 to 4000 tokens of context.
_SEVERAL_ROWS, _FURTHER_ROW = 0.2, 0.25
_CHEAPEST = 0.05  # share of the usual cost; no row is free, whatever the noise of the clock says


class Draft(Protocol):
    """Source of draft tokens for one text. It sees only the text, which also shows which of its tokens were accepted.

    cost: of one draft token, in passes of the model over one token.
    """

    cost: float

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        """Propose tokens that may follow `ids`, in turn, each with its chance to be accepted if all before it are.

        `ids` is what it was in the last call, with more appended. The caller stops when the chances get too small.
        """


class AcceptanceRates:
    """Shares of draft tokens that were accepted, a running average for each kind, from which a draft learns."""

    def __init__(self, first: Sequence[float]) -> None:
        """Start with the rates `first` of the kinds, numbered from 0, to expect before there is any experience."""
        self._rates = list(first)

    def __getitem__(self, kind: int) -> float:
        return self._rates[kind]

    def learn(self, kind: int, accepted: bool) -> None:
        """Record the outcome of one draft token."""
        self._rates[kind] += _RATE * (accepted - self._rates[kind])


class PassCosts:
    """Costs of passes by their number of rows, relative to a pass over one token.

    Rows beyond the first cost what they do on a CPU where they are expensive, times a factor that follows the measured
    passes. Where none is recorded it stays 1: cheaper rows then gain less than they could, and none loses.
    """

    def __init__(self) -> None:
        self.single_seconds: float | None = None  # of a pass over one token; None: none measured yet
        self._measured = self._usual = 1.0  # running averages: extra cost of the passes, measured and usual

    @property
    def further(self) -> float:
        """Cost of one more row, relative to a pass over one token."""
        return _FURTHER_ROW * max(self._measured / self._usual, _CHEAPEST)

    def relative(self, rows: int) -> float:
        """Expected cost of a pass over `rows` tokens, relative to a pass over one."""
        return 1 + self.further / _FURTHER_ROW * _usual_extra(rows)

    def record(self, rows: int, seconds: float) -> float:
        """Record a measured pass over `rows` tokens; returns its cost relative to a pass over one.

        Time beyond twice the expected is cut off: something interrupted the process.
        """
        single = self.single_seconds or (seconds if rows == 1 else None)
        if single is None:
            return self.relative(rows)
        seconds = min(seconds, 2 * single * self.relative(rows))
        if rows == 1:
            self.single_seconds = single + _COST_RATE * (seconds - single)
            return 1.0
        self._measured += _COST_RATE * (seconds / single - 1 - self._measured)
        self._usual += _COST_RATE * (_usual_extra(rows) - self._usual)
        return seconds / single


def _usual_extra(rows: int) -> float:
    """Cost of `rows` rows beyond that of one, before anything is measured."""
    return _SEVERAL_ROWS + _FURTHER_ROW * (rows - 1) if rows > 1 else 0.0


class Speculation:
    """Drafting for one generation: compares acceptance rates with costs, and pauses while drafting does not pay.

    `measured` costs follow the clock, so two runs may check different draft tokens. Kernels for one row and for several
    add in different orders, so a near tie may then fall another way. Costs that are not measured make text repeatable.
    """

    def __init__(self, draft: Draft, *, measured: bool) -> None:
        self._draft, self._measured = draft, measured
        self._costs = PassCosts()
        self._draft_cost = draft.cost
        self._spent = 0.0  # cost of the last draft tokens, in single-token passes
        self._credit = 0.0  # single-token passes won and lost
        self._rest, self._next_rest = 0, _FIRST_REST

    def propose(self, ids: list[int], limit: int) -> list[int]:
        """Draft tokens to check after `ids`, at most `limit`: as many as promise the most tokens per cost, often 0."""
        self._spent = 0.0
        if self._rest > 0:
            self._rest -= 1
            return []
        start = time.perf_counter()
        draft_tokens: list[int] = []
        promised = [1.0]  # expected tokens of a pass over so many draft tokens
        reached, best_rate = 1.0, _LEAST_GAIN  # the chance that all so far are accepted; tokens per relative cost
        for token, chance in islice(self._draft.propose(ids), min(limit, MAX_DRAFT_TOKENS)):
            draft_tokens.append(token)
            reached *= chance
            promised.append(promised[-1] + reached)
            cost = self._costs.relative(1 + len(draft_tokens)) + self._draft_cost * len(draft_tokens)
            best_rate = max(best_rate, promised[-1] / cost)
            if reached <= best_rate * (self._costs.further + self._draft_cost):
                break  # another one would bring less than the best do on average
        self._account_draft(len(draft_tokens), time.perf_counter() - start)
        promised[0] *= _LEAST_GAIN
        return draft_tokens[: self._worth_checking(promised)]

    def _worth_checking(self, promised: list[float]) -> int:
        """How many draft tokens promise the most tokens per cost, now that all are paid for, checked or not."""
        costs = [self._costs.relative(1 + count) + self._spent for count in range(len(promised))]
        return max(range(len(promised)), key=lambda count: promised[count] / costs[count])

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """Record the outcome of a pass over one token and `drafted` draft tokens, which took `seconds`."""
        rows = 1 + drafted
        cost = self._costs.record(rows, seconds) if self._measured else self._costs.relative(rows)
        self._credit = min(self._credit + 1 + accepted - cost - self._spent, _CREDIT)
        if self._credit < -_CREDIT:
            self._rest, self._credit = self._next_rest, 0.0
            self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
        elif self._credit == _CREDIT:
            self._next_rest = _FIRST_REST

    def _account_draft(self, count: int, seconds: float) -> None:
        self._spent = self._draft_cost * count
        if self._measured and self._costs.single_seconds and count:
            self._spent = min(seconds / self._costs.single_seconds, 2 * self._spent)
            self._draft_cost += _COST_RATE * (self._spent / count - self._draft_cost)
