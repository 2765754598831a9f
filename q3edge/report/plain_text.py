"""Text of models and files made safe to show: nothing in it can act on the page or hide in it."""

from __future__ import annotations

import unicodedata

_MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Control, format (bidi overrides, zero width), surrogate, private, unassigned; line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str, limit: int | None = None) -> str:
    """Make `text` visible: characters without a glyph or that move others are written out; cut with … after `limit`.

    Line breaks become ↵, tabs ⇥; a right-to-left override becomes ⟨U+202E⟩. The template escapes for HTML.
    """
    shown = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    return "".join(_MARKS.get(c) or (f"⟨U+{ord(c):04X}⟩" if _is_invisible(c) else c) for c in shown)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE
