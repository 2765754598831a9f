"""Quality filter for prose: the rules of Gopher (arXiv 2112.11446, section A.1.1), fitted to passages.

The limits are for words (`words`): runs of n words are as many letters longer in scripts without blanks between words.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.words import run_length, word_count, words_of
from q3edge.runtime.text.messages import Message, content_text

MIN_WORDS = 12  # Gopher's 50 are for whole web pages
MIN_WORDS_WITH_LETTERS = 0.7  # Gopher has 0.8, with 3.5 as one word where it is two here
MIN_LETTERS = 0.6  # of all characters that are not blank
MAX_REPEATED_LINES = 0.3  # of the characters in lines, those in lines that occurred before
MAX_TOP_GRAM = {2: 0.20, 3: 0.18, 4: 0.16}  # n -> share of the words that the most frequent n-gram covers
MAX_REPEATED_GRAMS = {5: 0.15, 10: 0.10}  # n -> share of the words in n-grams that occurred before


def rejection(document: Document) -> str | None:
    """Reason why a tagged document is dropped (empty, too-short, symbols, repetitive), or None.

    Dialogues, code and maths only must not be empty: their numbers and repetitions are intended. A call needs no
    content beside it, and a tool may have nothing to say.
    """
    if document.messages:
        spoken = [message for message in document.messages if message["role"] not in ("system", "tool")]
        return None if spoken and all(map(_speaks, spoken)) else "empty"
    if not document.text.strip():
        return "empty"
    return None if document.is_code or document.area == "math" else prose_rejection(document.text)


def _speaks(message: Message) -> bool:
    return bool(content_text(message).strip() or message.get("tool_calls"))


def prose_rejection(text: str) -> str | None:
    """Reason why prose is dropped (too-short, symbols, repetitive), or None."""
    words = words_of(text)
    if word_count(words) < MIN_WORDS:
        return "too-short"
    if _letter_share(text) < MIN_LETTERS:
        return "symbols"
    if sum(any(map(_is_letter, word)) for word in words) < MIN_WORDS_WITH_LETTERS * len(words):
        return "symbols"
    return "repetitive" if _repeated_line_share(text) > MAX_REPEATED_LINES or _repeats_grams(words) else None


def _letter_share(text: str) -> float:
    """Share of letters and the marks that belong to them among all characters that are not blank."""
    counts = {c: n for c, n in Counter(text).items() if not c.isspace()}
    return sum(n for c, n in counts.items() if _is_letter(c)) / max(1, sum(counts.values()))


@lru_cache(maxsize=1 << 14)
def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _repeated_line_share(text: str) -> float:
    lines = Counter(line.strip() for line in text.split("\n") if line.strip())
    total = sum(len(line) * count for line, count in lines.items())
    return sum(len(line) * (count - 1) for line, count in lines.items()) / max(1, total)


def _repeats_grams(words: list[str]) -> bool:
    if any(_top_gram_share(words, run_length(words, n)) > share for n, share in MAX_TOP_GRAM.items()):
        return True
    return any(_repeated_gram_share(words, run_length(words, n)) > share for n, share in MAX_REPEATED_GRAMS.items())


def _top_gram_share(words: list[str], n: int) -> float:
    """Share of the words that the most frequent n-gram covers; up to three occurrences count as none."""
    grams = Counter(zip(*(words[start:] for start in range(n))))
    most = max(grams.values(), default=0)
    return n * most / len(words) if most > 3 else 0.0


def _repeated_gram_share(words: list[str], n: int) -> float:
    """Share of words in repeated n-grams; the first repetition is not counted, as short texts repeat their subject."""
    seen: set[tuple[str, ...]] = set()
    covered = 0
    end = 0  # words before it are counted
    for start, gram in enumerate(zip(*(words[offset:] for offset in range(n)))):
        if gram in seen:
            covered += start + n - max(start, end)
            end = start + n
        seen.add(gram)
    return max(0, covered - n) / len(words)
