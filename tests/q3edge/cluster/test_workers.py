"""Calibration by the workers of a cluster: the same bytes for any number of them, also if one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from q3edge.architecture.tensors import EMBEDDING
from q3edge.cluster.place import spread
from q3edge.errors import InputError, ResourceError
from q3edge.progress import report_to
from q3edge.quantization.scheme import Scheme
from tests.helpers.calibration import Counted, calibrate, linear_schemes, outlier_model, random_tokens, result_bytes
from tests.helpers.cluster import Cluster, cluster
from tests.helpers.models import MOE, InMemoryWeights

workers = pytest.importorskip("q3edge.cluster.workers")
TOKENS = random_tokens(18, 512)
INT4, INT8 = Scheme(4, 32, False), Scheme(8, 16)
A8 = Scheme(8, None, activations="int8_per_token")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(2, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> InMemoryWeights:
    return outlier_model(3, hidden_size=128, intermediate_size=256)


def calibrated(model: InMemoryWeights, folder: Path, *, bfloat16: bool = False) -> dict[str, Any]:
    """Results and hidden states of a calibration at the present place, comparable bit for bit."""
    schemes = {
        **linear_schemes(model, INT4, keep_float=("k_proj",)),
        **{name: A8 for name in model.tensors if "layers.1." in name and "down_proj" in name},
        EMBEDDING: INT8,
    }
    results, states = calibrate(model, schemes, TOKENS, folder, bfloat16=bfloat16)
    return {**result_bytes(results), "states": states.numpy().tobytes()}


@pytest.fixture(scope="module")
def expected(model: InMemoryWeights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return calibrated(model, tmp_path_factory.mktemp("here"))


def test_one_worker_and_two_give_the_bytes_of_this_process(
    model: InMemoryWeights, expected: dict[str, Any], two_workers: Cluster, tmp_path: Path
) -> None:
    with workers.working_with(two_workers.address):
        assert calibrated(model, tmp_path / "two") == expected
    with cluster(1, tmp_path) as running, workers.working_with(running.address):
        assert calibrated(model, tmp_path / "one") == expected


class KillsAt(Counted):
    """A progress listener that kills a process at the n-th move."""

    def __init__(self, number: int, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self._number, self._process = number, process

    def __call__(self, count: int) -> None:
        super().__call__(count)
        if len(self.moves) == self._number:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.mark.parametrize("number", [2, 19, 33, 61], ids="at move {}".format)
def test_a_worker_that_is_killed_costs_its_own_work_only(
    number: int, model: InMemoryWeights, expected: dict[str, Any], tmp_path: Path
) -> None:
    with cluster(2, tmp_path) as running:
        listener = KillsAt(number, running.workers[0])
        with report_to(listener), workers.working_with(running.address):
            found = calibrated(model, tmp_path / "work")
        assert running.workers[0].poll() == -signal.SIGKILL
        assert running.workers[1].poll() is None
    assert found == expected
    assert listener.done == listener.total


@pytest.mark.parametrize("number", [3, 19], ids="at move {}".format)
def test_without_a_worker_left_it_ends_with_an_error_and_goes_on_later(
    number: int, model: InMemoryWeights, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(workers, "_WORKER_SECONDS", 1)
    with (
        cluster(1, tmp_path) as running,
        report_to(KillsAt(number, running.workers[0])),
        pytest.raises(ResourceError, match=r"no worker .*the same command goes on from here"),
        workers.working_with(running.address),
    ):
        calibrated(model, tmp_path / "work")
    assert calibrated(model, tmp_path / "work") == expected


def test_bfloat16_forward_passes_travel_too(model: InMemoryWeights, two_workers: Cluster, tmp_path: Path) -> None:
    here = calibrated(model, tmp_path / "here", bfloat16=True)
    with workers.working_with(two_workers.address):
        assert calibrated(model, tmp_path / "there", bfloat16=True) == here


def test_experts_are_solved_by_workers_too(two_workers: Cluster, tmp_path: Path) -> None:
    model = outlier_model(4, **MOE)
    schemes, tokens = linear_schemes(model, Scheme(4, 32)), random_tokens(40, 32)

    def found(folder: Path) -> dict[str, Any]:
        results, states = calibrate(model, schemes, tokens, folder)
        return {**result_bytes(results), "states": states.numpy().tobytes()}

    here = found(tmp_path / "here")
    with workers.working_with(two_workers.address):
        assert found(tmp_path / "there") == here


def test_results_come_in_order_and_errors_as_they_were_raised(two_workers: Cluster) -> None:
    def inverse(number: int) -> float:
        if not number:
            raise InputError("zero has no inverse")
        return 1 / number

    with workers.working_with(two_workers.address):
        assert list(spread(inverse, range(1, 40))) == [1 / number for number in range(1, 40)]
        assert list(spread(inverse, [])) == []
        with pytest.raises(InputError, match=r"^zero has no inverse$"):
            list(spread(inverse, [2, 0]))
