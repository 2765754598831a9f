"""`Notes`: what a user would be told while a function runs."""

from __future__ import annotations

from q3edge import progress


class Notes(progress.Silent):
    """Listener that keeps the lines it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
