"""`NGramDraft`: draft tokens copied from where the same tokens stood before in the text.

Prompt lookup decoding (Saxena, 2023). It pays where an answer quotes: code with a change, a summary, a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from q3edge.runtime.generation.speculation import AcceptanceRates

_SIZES = (4, 3, 2)  # tokens that must be the same, the longest first
# Acceptance rates by the tokens that were the same: 2, 3, 4-7, 8-15, 16-31, more. A little below those of English text,
# code and answers of a 135 M-parameter model, so that a text which does not repeat itself loses nothing at its start.
_FIRST_RATES = (0.3, 0.3, 0.4, 0.6, 0.85, 0.95)


class NGramDraft:
    """Draft of one text, with the last position of each group of 2 to 4 tokens; a few microseconds a token.

    Every token of the text is compared with what the draft would have proposed, asked or not, so the acceptance rates
    are learned without checking.
    """

    cost = 0.0

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # group -> position after its last occurrence
        self._read = 0  # tokens of the text that were read
        self._source, self._same = 0, 0  # where the text is copied from, and how many tokens before were the same
        self._rates = AcceptanceRates(_FIRST_RATES)

    def propose(self, ids: list[int]) -> Iterator[tuple[int, float]]:
        """Propose tokens that may follow `ids`, with the chance of each to be accepted; none if nothing repeats.

        Where the copied part reaches the end of the text, it is repeated.
        """
        for position in range(self._read, len(ids)):
            self._follow(ids, position)
        self._read = len(ids)
        if self._same:
            period = len(ids) - self._source
            for i in count():
                yield ids[self._source + i % period], self._rates[_kind(self._same + i)]

    def _follow(self, ids: list[int], position: int) -> None:
        """Read one token of the text: continue the copy if the token is the copied one, else find the longest group.

        A copy that continues needs no search: a longer group elsewhere would have been found when the copy began.
        """
        if self._same:
            accepted = ids[self._source] == ids[position]
            self._rates.learn(_kind(self._same), accepted)
            self._source, self._same = (self._source + 1, self._same + 1) if accepted else (0, 0)
        end = position + 1
        for size in _SIZES:
            if size > end:
                continue
            group = tuple(ids[end - size : end])
            if not self._same and group in self._ends:
                self._source, self._same = self._ends[group], size
            self._ends[group] = end


def _kind(same: int) -> int:
    """Index in `_FIRST_RATES` of a draft token before which `same` tokens, at least 2, were the same."""
    return same - 2 if same < 4 else min(same.bit_length(), 6) - 1
