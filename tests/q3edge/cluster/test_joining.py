"""What keeps a cluster from being used is one clear line; and what travels to it comes out the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from q3edge.errors import ResourceError, UsageError
from tests.helpers.cluster import cluster

workers = pytest.importorskip("q3edge.cluster.workers")
from q3edge.cluster import piece  # noqa: E402
from q3edge.cluster.travel import pack, unpack  # noqa: E402


def join(address: str) -> None:
    with workers.working_with(address):
        pass


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 1)
    with pytest.raises(ResourceError, match=r"--scheduler tcp://127.0.0.1:9: no scheduler answers there; start one"):
        join("tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["", "nowhere", "http://127.0.0.1:80", "tcp://"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match=r"--scheduler .*: expected an address such as tcp://host:8786"):
        join(address)


@pytest.fixture
def _newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(piece, "VERSION", "9.9")
    piece.own_kind.cache_clear()
    yield
    piece.own_kind.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("_newer")
def test_workers_of_another_kind_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        cluster(1, tmp_path_factory.mktemp("cluster")) as running,
        pytest.raises(ResourceError, match=r"worker tcp://\S+: q3edge is \S+, here 9\.9; results would not"),
    ):
        join(running.address)


@pytest.mark.slow
def test_a_scheduler_without_workers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_WORKER_SECONDS", 0.2)
    with (
        cluster(0, tmp_path_factory.mktemp("cluster")) as running,
        pytest.raises(ResourceError, match=r"no worker came within 0\.2 s; start one with"),
    ):
        join(running.address)


def test_whatever_travels_comes_out_the_same() -> None:
    large = torch.randn(600, 600)
    half = torch.randn(600, 600).to(torch.bfloat16)
    zeros = torch.zeros(600, 600)
    value = {
        "a": large,
        "again": large,
        "b": np.arange(100_000),
        "small": torch.ones(3),
        "half": half,
        "zeros": zeros,
    }
    packed = pack(value)
    assert len(packed.large) == 2
    found = unpack(packed.pickled, [np.asarray(array) for array in packed.large])
    assert found["a"] is not large
    assert torch.equal(found["a"], large)
    assert torch.equal(found["again"], large)
    assert torch.equal(found["half"], half)
    assert torch.equal(found["zeros"], zeros)
    np.testing.assert_array_equal(found["b"], value["b"])
