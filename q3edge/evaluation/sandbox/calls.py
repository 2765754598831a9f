"""`Peer`: one end of calls between two processes, one of which must not trust the other.

Only plain values travel, as JSON: what arrives is made of Python's own types, so that no code of the other side runs
when it is compared. Functions stay where they are and are called there.
"""

from __future__ import annotations

import builtins
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

_DEEPEST = 200  # levels of a value
_LARGE = 1 << 53  # from here on an integer is written in hexadecimal, whose length Python does not limit

# Name, type (subclasses count as it), parts as a list, and the value made of the decoded parts.
_KINDS: tuple[tuple[str, type, Callable[[Any], list[Any]], Callable[[list[Any]], Any]], ...] = (
    ("tuple", tuple, list, tuple),
    ("set", set, list, set),
    ("frozenset", frozenset, list, frozenset),
    ("dict", dict, lambda found: [list(pair) for pair in dict.items(found)], dict),
    ("keys", type({}.keys()), list, lambda parts: dict.fromkeys(parts).keys()),
    ("values", type({}.values()), list, lambda parts: dict(enumerate(parts)).values()),
    ("items", type({}.items()), list, lambda parts: dict(parts).items()),
    ("bytes", bytes, list, bytes),
    ("bytearray", bytearray, list, bytearray),
    ("complex", complex, lambda found: [found.real, found.imag], lambda parts: complex(*parts)),
    ("range", range, lambda found: [found.start, found.stop, found.step], lambda parts: range(*parts)),
    ("deque", deque, list, deque),
    ("fraction", Fraction, lambda found: [found.numerator, found.denominator], lambda parts: Fraction(*parts)),
    ("decimal", Decimal, lambda found: [str(found)], lambda parts: Decimal(*parts)),
)
_BUILD = {name: build for name, _, _, build in _KINDS}
_CHANGEABLE = (list, dict, set, bytearray, deque)


class ClosedError(BaseException):
    """The other side has ended, or said what is no message. No `except Exception` of a test catches it."""


class NotPlainError(BaseException):
    """A value cannot be given to the other side. No `except Exception` of a test catches it."""


class Peer:
    """End of a connection. calls: how often the other side was called; fault: the error after which nothing counts."""

    def __init__(self, connection: int) -> None:
        """Start over a connected stream socket, given as a file descriptor."""
        self._read = os.fdopen(connection, "rb")
        self._write = os.fdopen(connection, "wb", closefd=False)
        self._shared: list[Callable[..., Any]] = []
        self.calls = 0
        self.fault: ClosedError | NotPlainError | None = None

    def share(self, function: Callable[..., Any]) -> int:
        """Let the other side call a function; returns its number, from 0."""
        self._shared.append(function)
        return len(self._shared) - 1

    def serve(self) -> None:
        """Answer the other side's calls until it closes."""
        while (message := self._receive()) is not None:
            self._answer(message)

    def call(self, function: int, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call a function of the other side; lists, dicts and sets among the arguments change as they do there.

        Errors of Python's own types are raised again, others as RuntimeError. ClosedError, NotPlainError.
        """
        self.calls += 1
        values = [*arguments, *named.values()]
        try:
            plain = [self._encode(value) for value in values]
        except (TypeError, RecursionError) as error:
            self.fault = self.fault or NotPlainError(str(error))
            raise self.fault from None
        self._send({"call": function, "values": plain, "names": list(named)})
        while "call" in (message := self._receive_reply()):
            self._answer(message)
        if "raised" in message:
            raise _error(str(message["raised"]), str(message.get("text", "")))
        for value, changed in zip(values, message["values"]):
            if changed is not None:
                _replace(value, self._decode(changed))
        return self._decode(message["result"])

    def function(self, number: int) -> Callable[..., Any]:
        """Function that calls the other side's function of this number."""

        def remote(*arguments: Any, **named: Any) -> Any:
            return self.call(number, arguments, named)

        remote.number_there = number  # type: ignore[attr-defined]
        return remote

    def _answer(self, message: dict[str, Any]) -> None:
        names: list[str] = message["names"]
        try:
            values = [self._decode(value) for value in message["values"]]
            count = len(values) - len(names)
            result = self._shared[message["call"]](*values[:count], **dict(zip(names, values[count:])))
            reply = {
                "result": self._encode(result),
                "values": [self._encode(value) if isinstance(value, _CHANGEABLE) else None for value in values],
            }
        except Exception as error:
            reply = {"raised": type(error).__name__, "text": str(error)}
        self._send(reply)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._write.write(json.dumps(message).encode() + b"\n")
            self._write.flush()
        except OSError as error:
            self.fault = ClosedError(str(error))
            raise self.fault from None

    def _receive(self) -> dict[str, Any] | None:
        try:
            line = self._read.readline()
        except ConnectionError:  # it ended with words of ours unread
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def _receive_reply(self) -> dict[str, Any]:
        message = self._receive()
        if message is None:
            self.fault = ClosedError("the other side has ended")
            raise self.fault
        return message

    def _encode(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | float | str):
            return value
        if isinstance(value, int):
            return int(value) if -_LARGE < value < _LARGE else {"int": hex(value)}
        if isinstance(value, list):
            return [self._encode(part) for part in list.__iter__(value)]
        for name, kind, parts, _ in _KINDS:
            if isinstance(value, kind):
                return {name: [self._encode(part) for part in parts(value)]}
        if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            return self._encode(value.item())
        if isinstance(value, Iterator):  # it may have no end
            return {"iterator": self.share(value.__next__)}
        if callable(value):
            there = getattr(value, "number_there", None)
            return {"function": self.share(value)} if there is None else {"yours": there}
        raise TypeError(f"a value of type {type(value).__name__} is no plain value")

    def _decode(self, value: Any, depth: int = 0) -> Any:
        if depth > _DEEPEST:  # what is sent back again has to be encoded
            raise ValueError(f"values are nested more than {_DEEPEST} deep")
        if isinstance(value, list):
            return [self._decode(part, depth + 1) for part in value]
        if not isinstance(value, dict):
            return value
        ((name, parts),) = value.items()
        if name == "int":
            return int(parts, 16)
        if name == "function":
            return self.function(int(parts))
        if name == "iterator":
            return iter(self.function(int(parts)), object())
        if name == "yours":
            return self._shared[parts]
        return _BUILD[name]([self._decode(part, depth + 1) for part in parts])


def _replace(value: Any, changed: Any) -> None:
    """Give a container the content of another one of its type."""
    if type(changed) not in _CHANGEABLE or not isinstance(value, type(changed)):
        raise TypeError("an argument came back with another type")
    value.clear()
    value.extend(changed) if isinstance(value, list | bytearray | deque) else value.update(changed)


def _error(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # it is made of more than a text
            pass
    return RuntimeError(f"{name}: {text}")
