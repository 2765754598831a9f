"""Work on all cores keeps its order, its bounds and torch's settings."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from q3edge.reference.parallel import ordered_map


def test_order_and_single_threaded_workers() -> None:
    before = torch.get_num_threads()
    found = list(ordered_map(lambda n: (n * n, torch.get_num_threads()), range(50)))
    assert [square for square, _ in found] == [n * n for n in range(50)]
    assert {threads for _, threads in found} == {1}
    assert torch.get_num_threads() == before


def test_few_workers_share_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        found = list(ordered_map(lambda _: (threading.get_ident(), torch.get_num_threads()), range(50), workers=2))
    finally:
        torch.set_num_threads(before)
    assert {threads for _, threads in found} == {2}
    assert len({worker for worker, _ in found}) <= 2


def test_items_are_taken_only_as_results_are_needed() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(1000):
            taken += 1
            yield n

    results = ordered_map(lambda n: n, items())
    assert next(results) == 0
    assert taken <= 2 * torch.get_num_threads() + 1
    results.close()  # type: ignore[attr-defined]


def test_an_error_reaches_the_caller_and_stops_the_workers() -> None:
    def fail(n: int) -> int:
        if n == 3:
            raise ValueError("block 3")
        return n

    with pytest.raises(ValueError, match="block 3"):
        list(ordered_map(fail, range(100)))
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
