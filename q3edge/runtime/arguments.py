"""What programs pass to the library: taken in its usual forms, else a TypeError that says what to pass."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

from q3edge.errors import UsageError


def folder_path(value: object, name: str) -> Path:
    """A str or Path as Path; `name` is the argument's."""
    if not isinstance(value, str | Path):
        raise TypeError(f"{name}: give a str or Path, not {type(value).__name__}")
    return Path(value)


def check_thinking(value: object) -> None:
    """TypeError unless it is True, False or None."""
    if not isinstance(value, bool | None):
        raise TypeError(f"thinking: give True, False, or None for the model's own way, not {value!r}")


def check_token_ids(value: object, vocab_size: int) -> None:
    """TypeError unless it is a list of whole numbers; UsageError: one that the model does not have."""
    if not isinstance(value, Sequence) or not all(isinstance(token, Integral) for token in value):
        raise TypeError(f"prompt: give a str or a list of token ids, not {type(value).__name__}")
    if foreign := [token for token in value if not 0 <= token < vocab_size]:
        raise UsageError(f"token id {foreign[0]}: the model has ids 0 to {vocab_size - 1}")
