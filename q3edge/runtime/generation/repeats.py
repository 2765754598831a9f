"""`Repeats`: finds out that an answer says the same tokens over and over, as small models do that are caught in a loop.

A few operations a token, whatever the length of the loop.
"""

from __future__ import annotations

from q3edge.artifact import Notice

_GROUP = 8  # tokens that have to come again before a loop is looked for
# What counts as one: of 3.6 million tokens of prose, questions, tables, code and SVG, no part came four times and was
# over 80 tokens with its copies.
_TOKENS, _TIMES = 128, 4


class Repeats:
    """Tokens of one answer, taken one by one. `notice`: the longest loop so far, None without one."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # group -> number of tokens up to its last occurrence
        self._period = self._same = 0  # how far back the last `same` tokens stand too
        self._longest = (0, 0)  # tokens of a loop with all copies, and of one copy

    def push(self, token: int) -> int:
        """Take a token; returns how often the last tokens have come, one time after the other, 0 for fewer than 128.

        It may be one less than it is: what stood before the eight tokens that are recognised is not compared. Of a loop
        within a loop the outer one counts, from its second round on.
        """
        self._ids.append(token)
        if self._same and token == self._ids[-1 - self._period]:
            self._same += 1
        else:
            self._same = 0
        end, group = len(self._ids), tuple(self._ids[-_GROUP:])
        if not self._same and group in self._ends:
            self._period, self._same = end - self._ends[group], _GROUP
        if end >= _GROUP:
            self._ends[group] = end
        tokens = self._same + self._period if self._same else 0
        if tokens < _TOKENS:
            return 0
        times = tokens // self._period
        if times >= _TIMES and tokens > self._longest[0]:
            self._longest = tokens, self._period
        return times

    @property
    def notice(self) -> Notice | None:
        """Notice of the longest loop; its count is how often the tokens came."""
        tokens, period = self._longest
        if not tokens:
            return None
        times, what = tokens // period, "token" if period == 1 else f"{period} tokens"
        detail = f"the answer has the same {what} {times} times over; a presence_penalty, up to 2, helps against loops"
        return Notice("repeats", times, detail)
