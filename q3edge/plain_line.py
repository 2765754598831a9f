"""`plain_line`: any text as one line that is safe to show: names in files may hold line ends, escapes and megabytes.

`typed`: a path in a command that is shown, to be copied. `counted`: a number with its noun.
"""

from __future__ import annotations

import re
import shlex

_LONGEST_WORD, _LONGEST = 400, 4000  # characters
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


def plain_line(text: str) -> str:
    """Make one line of a text: what cannot be printed is shown as an escape (`\\n`, `\\x1b`), what is long is cut.

    A word of more than 400 characters keeps its ends, and so does a text of more than 4000; the number of characters
    that are left out stands between them.
    """
    if len(text) > _LONGEST:
        text = _WORD.sub(lambda word: _cut(word[0], _LONGEST_WORD), text)
    text = _cut(text, _LONGEST)
    text = _UNPRINTABLE.sub(lambda found: _shown(found[0]), text)
    return _WORD.sub(lambda word: _cut(word[0], _LONGEST_WORD), text)


def typed(value: object) -> str:
    """A path or a name as it is typed into a shell: with quotes where it needs them."""
    return shlex.quote(str(value))


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun; plural: where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 4
    start = longest - end - 40
    return f"{text[:start]} [{len(text) - start - end} characters left out] {text[-end:]}"


def _shown(character: str) -> str:
    if character.isprintable() or character == "\u3000":  # the space of Chinese and Japanese text
        return character
    return character.encode("unicode_escape").decode("ascii")
