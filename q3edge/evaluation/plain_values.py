"""Frozen dataclasses from the JSON that `dataclasses.asdict` made of them; anything else is refused."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar

Value = TypeVar("Value")


def from_plain(kind: type[Value], raw: object, where: str = "") -> Value:
    """Build a dataclass of type `kind` from JSON values: every field there, no other, each of its declared type.

    TypeError: names the place (`where.field`) that differs and what was expected there.
    """
    found: Value = _read(kind, raw, where or kind.__name__)
    return found


def _read(kind: Any, raw: Any, where: str) -> Any:
    if kind is Any:
        return raw
    if is_dataclass(kind):
        return _dataclass(kind, raw, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        present = [argument for argument in arguments if argument is not types.NoneType]
        return None if raw is None else _read(present[0], raw, where)
    if origin is Literal:
        _require(raw in arguments, where, f"one of {', '.join(map(str, arguments))}", raw)
        return raw
    if origin is tuple:
        _require(isinstance(raw, list | tuple), where, "a list", raw)
        kinds = arguments[:1] * len(raw) if arguments[1:] == (...,) else arguments
        _require(len(kinds) == len(raw), where, f"{len(kinds)} values", raw)
        return tuple(_read(kind, value, f"{where}[{i}]") for i, (kind, value) in enumerate(zip(kinds, raw)))
    if origin is Mapping:
        _require(isinstance(raw, dict), where, "an object", raw)
        return {key: _read(arguments[1], value, f"{where}.{key}") for key, value in raw.items()}
    if kind is float and type(raw) is int:
        return float(raw)
    _require(type(raw) is kind, where, kind.__name__, raw)
    return raw


def _dataclass(kind: Any, raw: Any, where: str) -> Any:
    _require(isinstance(raw, dict), where, "an object", raw)
    names = [field.name for field in fields(kind)]
    _require(set(raw) == set(names), where, f"exactly {', '.join(names)}", sorted(raw))
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], raw[name], f"{where}.{name}") for name in names})


def _require(condition: bool, where: str, expected: str, found: object) -> None:
    if not condition:
        raise TypeError(f"{where}: expected {expected}, found {str(found)[:80]!r}")
