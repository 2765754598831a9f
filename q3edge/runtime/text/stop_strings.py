"""`StopStrings`: ends a text before the first of some strings, without ever giving a part of one away."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Filter of a text that arrives in pieces; what could be the beginning of a stop string is held back."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._longest = max(map(len, strings), default=0)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def push(self, text: str) -> str:
        """Take a piece; returns the text that surely stands before any stop string."""
        self._held += text
        places = [(place, string) for string in self._strings if (place := self._held.find(string)) >= 0]
        if places:
            place, self.found = min(places)
            safe, self._held = self._held[:place], ""
            return safe
        kept = min(self._longest - 1, len(self._held)) if self._strings else 0
        while kept > 0 and not any(string.startswith(self._held[-kept:]) for string in self._strings):
            kept -= 1
        cut = len(self._held) - max(kept, 0)
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def finish(self) -> str:
        """Return what was held back; the text has ended without a stop string in it."""
        rest, self._held = self._held, ""
        return rest
