"""What a field needs that is a text, token ids, or a list of either: `kind_of` for its schema, `as_list`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]


def kind_of(value: object) -> str:
    """Tag of the kind that a value is meant to be, so that what is wrong is said of that kind alone."""
    if not isinstance(value, list):
        return "str"
    first = value[0] if value else ""
    return "list[list[int]]" if isinstance(first, list) else "list[str]" if isinstance(first, str) else "list[int]"


def as_list(value: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> Sequence[str | Sequence[int]]:
    """All of a field's texts or token ids, of a single one too."""
    return [value] if isinstance(value, str) or isinstance(value[0], int) else value  # type: ignore[list-item,return-value]
