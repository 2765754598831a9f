"""Text of models and files made fit to be shown: nothing in it can act on the page or hide in it."""

from __future__ import annotations

import unicodedata

_MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Control, format (bidi overrides, zero width), surrogate, private, unassigned; line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str, limit: int | None = None) -> str:
    """`text` with every character that has no glyph or moves others written out, cut with … after `limit` characters.

    Line breaks become ↵, tabs ⇥; a right-to-left override becomes ⟨U+202E⟩. Escaping for HTML is the template's.
    """
    shown = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    return "".join(_MARKS.get(c) or (f"⟨U+{ord(c):04X}⟩" if _is_invisible(c) else c) for c in shown)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE
