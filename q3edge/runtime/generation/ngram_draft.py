"""`NGramDraft`: guesses that a text goes on as it did behind the same words before.

Prompt lookup decoding (Saxena, 2023). It pays where an answer quotes: code with a change, a summary, a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from q3edge.runtime.generation.speculation import Chances

_SIZES = (4, 3, 2)  # tokens that must be the same, the longest first
# Chances by the tokens that were the same: 2, 3, 4-7, 8-15, 16-31, more. A little below what English text, code and
# answers of a 135 M-parameter model show, so that a text which does not repeat itself loses nothing at its start.
_FIRST_CHANCES = (0.3, 0.3, 0.4, 0.6, 0.85, 0.95)


class NGramDraft:
    """One text and where each of its groups of 2 to 4 tokens was last seen, kept up at a few microseconds a token.

    Every token of the text is compared with what would have been guessed, asked or not, so the chances cost no trials.
    """

    cost = 0.0

    def __init__(self) -> None:
        self._behind: dict[tuple[int, ...], int] = {}  # group -> position behind its last occurrence
        self._read = 0  # tokens of the text that are taken in
        self._source, self._same = 0, 0  # where the text is copied from, and how many tokens before were the same
        self._chances = Chances(_FIRST_CHANCES)

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        """See `Draft`. Where the copied part reaches the end of the text, it is repeated."""
        for position in range(self._read, len(ids)):
            self._take(ids, position)
        self._read = len(ids)
        if self._same:
            period = len(ids) - self._source
            for i in count():
                yield ids[self._source + i % period], self._chances[_kind(self._same + i)]

    def _take(self, ids: list[int], position: int) -> None:
        """Follow the text by one token: go on with the copy if it is as there, else look for the longest group.

        A copy that goes on needs no look: a longer group elsewhere would have been found when the copy began.
        """
        if self._same:
            right = ids[self._source] == ids[position]
            self._chances.learn(_kind(self._same), right)
            self._source, self._same = (self._source + 1, self._same + 1) if right else (0, 0)
        end = position + 1
        for size in _SIZES:
            if size > end:
                continue
            group = tuple(ids[end - size : end])
            if not self._same and group in self._behind:
                self._source, self._same = self._behind[group], size
            self._behind[group] = end


def _kind(same: int) -> int:
    return same - 2 if same < 4 else min(same.bit_length(), 6) - 1
