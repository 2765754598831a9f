"""Calls between the judge and the program: what a test sees is what it would see in one process."""

from __future__ import annotations

import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from q3edge.evaluation.sandbox.calls import ClosedError, NotPlainError, Peer


@contextmanager
def connected(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """`function` as the other side of a connection has it."""
    near, far = socket.socketpair()
    caller, owner = Peer(near.detach()), Peer(far.detach())
    owner.share(function)
    serving = threading.Thread(target=owner.serve)
    serving.start()
    yield caller.function(0)
    caller._read.close()
    serving.join()
    owner._read.close()


VALUES: list[Any] = [
    None, True, 0, -3, 2**53, -(10**6000), 0.1, 1e300, float("inf"), "", "a\n\ud800\U0001f600", b"\x00\xff",
    bytearray(b"x"),
    [1, [2, (3,)]], (), {1: "a", (2, 3): [4]}, {1, 2}, frozenset({"a"}), 1 + 2j, range(1, 10, 2), deque([1, 2]),
    Fraction(1, 3), Decimal("0.10"), {"int": "0x1"}, {"function": 0}, [{"tuple": []}],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_r2_plain_values_arrive_as_they_are(value: Any) -> None:
    with connected(lambda a: a) as there:
        found = there(value)
    assert found == value
    assert type(found) is type(value)


def test_r2_own_types_arrive_as_pythons() -> None:
    """So that nothing of theirs decides a comparison."""
    with connected(lambda which: (Counter("aab"), np.int64(3), np.float64(0.5), np.bool_(True))[which]) as there:
        found = [there(which) for which in range(4)]
    assert found == [{"a": 2, "b": 1}, 3, 0.5, True]
    assert [type(value) for value in found] == [dict, int, float, bool]


def test_r2_views_and_iterators() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with connected(lambda which: {"keys": {1: 2}.keys(), "map": map(abs, [-1]), "endless": endless()}[which]) as there:
        assert there("keys") == {1}
        assert list(there("map")) == [1]
        numbers = there("endless")
        assert [next(numbers) for _ in range(3)] == [0, 1, 2]


def test_r2_arguments_change_as_they_do_there() -> None:
    def change(numbers: list[int], names: dict[str, int], *, seen: set[int]) -> None:
        numbers.sort()
        names["b"] = 2
        seen.clear()

    numbers, names, seen = [3, 1], {"a": 1}, {1}
    with connected(change) as there:
        assert there(numbers, names, seen=seen) is None
    assert (numbers, names, seen) == ([1, 3], {"a": 1, "b": 2}, set())


def test_r2_functions_go_both_ways() -> None:
    with connected(lambda f: lambda a: f(a) + 1) as there:
        assert there(lambda a: 10 * a)(2) == 21
    with connected(lambda f: f) as there:
        assert there(len) is len


def test_r2_errors_keep_their_type() -> None:
    def fail(kind: str) -> None:
        raise {"key": KeyError("a"), "unicode": UnicodeDecodeError("a", b"", 0, 1, "b"), "own": Own("c")}[kind]

    class Own(Exception):  # noqa: N818 - a program's
        pass

    with connected(fail) as there:
        with pytest.raises(KeyError):
            there("key")
        with pytest.raises(RuntimeError, match="UnicodeDecodeError"):
            there("unicode")
        with pytest.raises(RuntimeError, match="Own: c"):
            there("own")


def test_r2_what_is_not_plain_stays() -> None:
    with connected(lambda a: object()) as there:
        with pytest.raises(TypeError, match="type object"):
            there(1)
        with pytest.raises(NotPlainError, match="type object"):
            there(object())


def test_r2_no_test_can_overlook_that_the_program_has_ended() -> None:
    near, far = socket.socketpair()
    caller = Peer(near.detach())
    far.close()
    with pytest.raises(ClosedError):
        caller.call(0, [1], {})
    assert isinstance(caller.fault, ClosedError)
    assert not issubclass(ClosedError, Exception)
    caller._read.close()
