"""What a schema needs for a field that is a text, token ids, or a list of either."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]


def kind_of(value: object) -> str:
    """Tag of the kind that a value is meant to be, so that what is wrong is said of that kind alone."""
    if not isinstance(value, list):
        return "str"
    first = value[0] if value else ""
    return "list[list[int]]" if isinstance(first, list) else "list[str]" if isinstance(first, str) else "list[int]"
