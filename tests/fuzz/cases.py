"""Damaged inputs by the thousand, and what may come of them: a refusal in one line, or a right reading.

A case is a number: the same number is the same case on every machine. `Q3EDGE_FUZZ=long` runs the long counts, and
`Q3EDGE_FUZZ=KIND:NUMBER` one case again.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from q3edge.errors import Q3EdgeError
from q3edge.plain_line import plain_line

HANG_SECONDS = 5  # of CPU time
LONG = "long"
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "0", "null", "../../etc/passwd", "/dev/zero", "C:\\x", "\\\\host\\share", "a\nb", "\x1b[31mred", "\0",
    "\ud800", "x" * 70000, "ｆｕｌｌ", "é", [], {}, [[]], [None], {"": {}}, [1] * 50,
)  # fmt: skip


class HangError(BaseException):
    """A case took more CPU time than it may."""


def counts(kind: str, bounded: int, long: int) -> Iterator[tuple[int, random.Random]]:
    """Numbers of the cases of a kind, each with its source of randomness."""
    chosen = os.environ.get("Q3EDGE_FUZZ", "")
    name, _, number = chosen.partition(":")
    if number:
        numbers = range(int(number), int(number) + 1) if name == kind else range(0)
    else:
        numbers = range(long if chosen == LONG else bounded)
    for index in numbers:
        yield index, random.Random(f"{kind}:{index}")


def check_refusals(refused: int) -> None:
    """Check that the damages of a whole run were not all harmless."""
    assert refused or ":" in os.environ.get("Q3EDGE_FUZZ", "")


def outcome(case: str, function: Callable[[], Any]) -> Any:
    """Result of a function, or the Q3EdgeError that it raised, whose text must be one short line.

    Any other exception and a hang are failures that name the case.
    """
    try:
        with _no_hang(case):
            return function()
    except Q3EdgeError as error:
        if not str(error) or str(error) != plain_line(str(error)):
            raise AssertionError(f"{case}: {str(error)[:300]!r} is no line of text") from error
        return error
    except HangError:
        raise AssertionError(f"{case}: hangs") from None
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {str(error)[:300]}") from error


@contextmanager
def _no_hang(case: str) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise HangError(case)

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def damaged_bytes(content: bytes, source: random.Random) -> bytes:
    """Copy with one to three damages: bits flipped, bytes cut, doubled, overwritten or inserted."""
    found = bytearray(content)
    for _ in range(source.randint(1, 3)):
        at = source.randrange(len(found) + 1)
        length = min(source.choice((1, 1, 2, 8, 64)), len(found) - at)
        match source.randrange(6):
            case 0 if at < len(found):
                found[at] ^= 1 << source.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + length]
            case 3:
                found[at:at] = found[at : at + length]
            case 4:
                found[at : at + length] = bytes(source.randrange(256) for _ in range(length))
            case _:
                found[at:at] = source.choice((b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b"{", b"]", b"\n", b"\x7f" * 8))
    return bytes(found)


def damaged_json(value: Any, source: random.Random) -> Any:
    """Copy of a JSON value with one to three values replaced, removed, renamed or nested."""
    found = copy.deepcopy(value)
    for _ in range(source.randint(1, 3)):
        places = [place for place in _places(found) if place[0] is not None]
        if not places:
            return source.choice(HOSTILE)
        parent, key = source.choice(places)
        match source.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[source.choice((key + "x", "", key.upper(), key[::-1]))] = parent.pop(key)
            case 2 if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
                number = parent[key]
                parent[key] = source.choice(
                    (-number, number + 1, number * 2**20, f"{number:.9g}" if abs(number) < 2**60 else "1")
                )
            case 3:
                parent[key] = [parent[key]] * source.choice((1, 2, 1000))
            case _:
                parent[key] = copy.deepcopy(source.choice(HOSTILE))
    return found


def json_bytes(value: Any, source: random.Random) -> bytes:
    """A JSON text of a value, now and then damaged as bytes, with a key twice, or nested without an end."""
    text = json.dumps(value, ensure_ascii=source.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    chance = source.random()
    if chance < 0.2:
        return damaged_bytes(content, source)
    if chance < 0.25 and text.startswith("{") and len(text) > 2:
        return content[:-1] + b", " + content[1:]
    if chance < 0.27:
        return b"[" * 100_000
    return content


def _places(value: Any, parent: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Every place of a value in its parent; the root has none."""
    yield parent, key
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in list(children)[:200]:
        yield from _places(child, value, name)
