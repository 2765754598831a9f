"""A cluster of processes on this machine: a Dask scheduler and workers, each killed by its own handle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra distributed is not installed")
ROOT = Path(__file__).parents[2]
_SCHEDULER = """
import asyncio, sys
from distributed import Scheduler

async def main():
    async with Scheduler(host="127.0.0.1", dashboard=False) as scheduler:
        print(scheduler.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
_WORKER = """
import asyncio, sys
import dask
from distributed import Worker

async def main():
    dask.config.set({"distributed.worker.memory.spill": False, "distributed.worker.memory.target": False})
    async with Worker(sys.argv[1], nthreads=1, memory_limit=0, host="127.0.0.1") as worker:
        print(worker.address, flush=True)
        await worker.finished()

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster: the scheduler's address and the workers' processes."""

    address: str
    workers: tuple[subprocess.Popen[str], ...]


@contextmanager
def cluster(workers: int, folder: Path, **environment: str) -> Iterator[Cluster]:
    """Run a scheduler and so many workers, whose files go to `folder`, with further variables of their environment."""
    with ExitStack() as stack:
        scheduler = stack.enter_context(_running(_SCHEDULER, folder))
        address = _address(scheduler)
        processes = [stack.enter_context(_running(_WORKER, folder, address, **environment)) for _ in range(workers)]
        for process in processes:
            _address(process)
        yield Cluster(address, tuple(processes))


@contextmanager
def _running(script: str, folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder,
        env={**_environment(os.environ), **environment},
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {**given, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    assert found.startswith("tcp://"), f"the process ended: {process.poll()}"
    return found
