"""Words of a text in any script, as the quality rules and the search for duplicates count them.

A word is a run of letters, the marks on them, and digits. Scripts that put no blanks between words have none to find
without a dictionary: there each character, with its marks, is a unit, and so many units are counted as one word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np

# Thai, Lao, Myanmar, Khmer, Tai Le to New Tai Lue, Tai Tham, Balinese, Javanese, Myanmar's extensions
_SOUTH_EAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df\uaa60-\uaa7f"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_IDEOGRAPHS = "\u3005\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# Letters for each word of the English text, counted on the Universal Declaration of Human Rights and MGSM: Thai 4.1 and
# 3.3, Chinese 1.5 and 1.5, Japanese (ideographs and kana mixed) 2.2 and 2.2. So 4, 3 and 1.5, in twelfths of a word.
_WORD = 12
_WEIGHTS = (
    (re.compile(f"[{_SOUTH_EAST}]"), 3), (re.compile(f"[{_KANA}]"), 4), (re.compile(f"[{_IDEOGRAPHS}]"), 8),
)  # fmt: skip


def words_of(text: str) -> list[str]:
    """Lower-case words of a text; in scripts without blanks between words, its letters with their marks."""
    return _pattern().findall(text.lower())


def word_count(words: Sequence[str]) -> float:
    """Number of words that `words_of` stands for: as many as an English text of the same content would have."""
    return sum(map(_weight, words)) / _WORD


def run_length(words: Sequence[str], count: int) -> int:
    """Number of entries of `words_of` that hold `count` words of this text: `count` in scripts with blanks."""
    return round(count * len(words) / word_count(words)) if words else count


def runs(words: Sequence[str], count: int) -> Iterator[str]:
    """Yield all runs of `count` words, joined by blanks; the whole text where it is shorter.

    How long a run is depends on its own characters only, so texts that share a passage share its runs.
    """
    ends = np.cumsum([0, *map(_weight, words)])
    stops = np.searchsorted(ends, ends + count * _WORD)
    for start, stop in enumerate(stops.tolist()):
        if stop > len(words) and start:
            return
        yield " ".join(words[start:stop])


@lru_cache(maxsize=1 << 16)
def _weight(word: str) -> int:
    return next((weight for script, weight in _WEIGHTS if script.match(word)), _WORD)


@cache
def _pattern() -> re.Pattern[str]:
    """Pattern of a word. Python's `\\w` has no marks: it would cut Hindi, Bengali or Telugu at every vowel sign."""
    characters = map(chr, (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)))  # planes between them have no marks
    marks = "".join(c for c in characters if unicodedata.category(c)[0] == "M")
    unspaced = _SOUTH_EAST + _KANA + _IDEOGRAPHS
    joiners = "\u200c\u200d"  # spelling in Persian and in Indian scripts
    return re.compile(f"[{unspaced}][{marks}]*|(?:(?![{unspaced}])[\\w{marks}{joiners}])+")
