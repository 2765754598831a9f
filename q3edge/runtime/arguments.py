"""Checks of arguments from programs: the usual forms are accepted, else a TypeError says what to pass."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

from q3edge.errors import UsageError


def folder_path(value: object, name: str) -> Path:
    """Convert a str or Path to Path; TypeError, which names the argument `name`, for anything else."""
    if not isinstance(value, str | Path):
        raise TypeError(f"{name}: give a str or Path, not {type(value).__name__}")
    return Path(value)


def check_texts(value: object, name: str) -> None:
    """Raise TypeError, which names the argument `name`, unless `value` is a str or a sequence of them."""
    if not isinstance(value, Sequence):
        raise TypeError(f"{name}: give a list of str, not {type(value).__name__}")
    for number, text in enumerate(value):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{number}]: give a str, not {type(text).__name__}")


def check_thinking(value: object) -> None:
    """Raise TypeError unless `value` is True, False or None."""
    if not isinstance(value, bool | None):
        raise TypeError(f"thinking: give True, False, or None for the model's own way, not {value!r}")


def check_token_ids(value: object, vocab_size: int) -> None:
    """Raise TypeError unless `value` is a sequence of whole numbers, UsageError unless all are below `vocab_size`."""
    if not isinstance(value, Sequence) or not all(isinstance(token, Integral) for token in value):
        raise TypeError(f"prompt: give a str or a list of token ids, not {type(value).__name__}")
    if foreign := [token for token in value if not 0 <= token < vocab_size]:
        raise UsageError(f"token id {foreign[0]}: the model has ids 0 to {vocab_size - 1}")
