"""`Fields`: typed access to the fields of a JSON object; every error names file, field and value in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, TypeGuard

from q3edge.errors import InputError

_LARGEST_INTEGER = 2**31
_SMALLEST_REAL, _LARGEST_REAL = 1e-9, 1e18  # beyond them float32 frequencies under- or overflow
_VALUES = reprlib.Repr()  # a file may hold anything: long and deep values are shown in part
_VALUES.maxstring = _VALUES.maxother = 80
_VALUES.maxlevel = 3


class Fields:
    """Fields of `raw`, which stands in the file `source`. Every method raises InputError for an unfit value."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    def error(self, field: str, expected: str) -> InputError:
        """Make the error for a field's value."""
        return InputError(f"{self.source}: {field} = {shown(self.raw.get(field))}: {expected}")

    def positive(self, field: str, default: int | None = None, most: int = _LARGEST_INTEGER) -> int:
        """Read an integer from 1 to `most`; `default` where it is absent or null."""
        value = self.raw.get(field)
        if value is None:
            value = default
        if not is_int(value) or value <= 0:
            raise self.error(field, "expected a positive integer")
        if value > most:
            raise self.error(field, f"expected a positive integer of at most {most}")
        return value

    def real(self, field: str, default: float | None = None) -> float:
        """Read a positive number that float32 can compute with; `default` where it is absent or null."""
        value = self.raw.get(field)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST_REAL < value < _LARGEST_REAL:
            raise self.error(field, "expected a positive number")
        return float(value)

    def fraction(self, field: str, default: float) -> float:
        """Read a number between 0 and 1, both excluded; `default` where it is absent."""
        value = self.raw.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise self.error(field, "expected a number between 0 and 1")
        return float(value)

    def boolean(self, field: str, default: bool) -> bool:
        """Read true or false; `default` where it is absent or null."""
        value = self.raw.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, "expected true or false")
        return value

    def text(self, field: str, default: str | None = None) -> str:
        """Read a string; `default` where it is absent."""
        value = self.raw.get(field, default)
        if not isinstance(value, str):
            raise self.error(field, "expected a string")
        return value

    def object(self, field: str) -> Mapping[str, Any]:
        """Read an object; an empty one where it is absent or null."""
        value = self.raw.get(field)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.error(field, "expected an object or null")
        return value

    def tokens(self, field: str, vocab: int) -> tuple[int, ...]:
        """Read token ids below `vocab`: one, a list, or none."""
        value = self.raw.get(field)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(is_int(i) and 0 <= i < vocab for i in ids):
            raise self.error(field, f"expected token ids between 0 and vocab_size - 1 = {vocab - 1}")
        return tuple(ids)

    def token(self, field: str, vocab: int) -> int | None:
        """Read one token id below `vocab`, or none."""
        ids = self.tokens(field, vocab)
        if len(ids) > 1:
            raise self.error(field, "expected one token id")
        return ids[0] if ids else None


def is_int(value: object) -> TypeGuard[int]:
    """Tell whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def shown(value: object) -> str:
    """Format a JSON value for an error: as Python writes it, in one line, cut where it is long or deep."""
    return _VALUES.repr(value)
