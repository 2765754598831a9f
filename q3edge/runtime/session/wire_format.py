"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding): messages read and written by field number.

Graphs are read without trusting them and changed in memory as they load, without the onnx package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


class MalformedError(Exception):
    """The bytes are not what the wire format or onnx.proto allows."""


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes from `start` to `end` of a file, not copied: a message, a text, or anything else with a length."""

    content: bytes
    start: int
    end: int

    @classmethod
    def whole(cls, content: bytes) -> Message:
        """All of `content`."""
        return cls(content, 0, len(content))

    def copy(self) -> bytes:
        """Copy of the bytes."""
        return self.content[self.start : self.end]

    def text(self) -> str:
        """The bytes as text; MalformedError if they are not UTF-8."""
        try:
            return self.copy().decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError("a name is not UTF-8") from None


def fields(message: Message) -> Iterator[tuple[int, int | Message]]:
    """Pairs (field number, value) of each varint and each length-delimited field; others are skipped."""
    for number, value, _ in _spans(message):
        if value is not None:
            yield number, value


def rewritten(
    message: Message,
    change: Callable[[int, Message], bytes | None] = lambda _number, _value: None,
    *,
    without: Callable[[int, Message], bool] = lambda _number, _value: False,
) -> bytes:
    """Bytes of `message`, with what `change` returns for a length-delimited field (number, value) in its place.

    None keeps the field. Fields that `without` is true for are left out.
    """
    parts: list[bytes] = []
    kept = message.start  # up to here everything is in `parts`
    for number, value, start in _spans(message):
        if not isinstance(value, Message):
            continue
        left_out = without(number, value)
        new = None if left_out else change(number, value)
        if left_out or new is not None:
            parts += message.content[kept:start], b"" if new is None else field_bytes(number, new)
            kept = value.end
    return b"".join((*parts, message.content[kept : message.end]))


def field_bytes(number: int, content: bytes | int) -> bytes:
    """One field: a varint, or length-delimited content."""
    if isinstance(content, int):
        return _varint_bytes(number << 3) + _varint_bytes(content)
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(content)) + content


def _spans(message: Message) -> Iterator[tuple[int, int | Message | None, int]]:
    """Triples (field number, value, where the field starts); the value of a fixed-size field is None."""
    content, position, end = message.content, message.start, message.end
    while position < end:
        start = position
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise MalformedError(f"field number {number}")
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value, start
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise MalformedError(f"wire type {wire_type}")
        if length > end - position:
            raise MalformedError("a field runs past its end")
        yield number, Message(content, position, position + length) if wire_type == 2 else None, start
        position += length


def _varint(message: Message, position: int) -> tuple[int, int]:
    if position < message.end and (byte := message.content[position]) < 0x80:  # most are
        return byte, position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= message.end:
            raise MalformedError("a number runs past its end")
        byte = message.content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedError("a number longer than 10 bytes")


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
