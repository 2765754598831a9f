"""Calibration by the workers of a cluster: seconds for 1, 2 and 4 of them here, and what that means for a 32B.

    python benchmarks/workers.py [--workers 1,2,4] [--rows 16] [--32b-rows 128] [--speed 1.0] [--bandwidth 1.1]

A random model with layers of Qwen3-0.6B's shape is calibrated to 4 bits: by this process, then by workers of one thread
each. The seconds are split into those that wait for rows of text, for solves, and for what is done here alone. Workers
beyond the machine's cores share them, so more of them show what a worker costs, not what it brings. All runs must give
the same bytes. The projection counts the operations of Qwen3-32B's layers, at --speed TFLOP/s for each machine, and the
bytes that go to and from the machine that asks, at --bandwidth GB/s.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_line
from safetensors.numpy import save_file

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import tensor_shapes
from q3edge.calibration.layers.layerwise import LayerwiseCalibration, held_out_rows
from q3edge.calibration.layers.predicted_work import LayerWork
from q3edge.calibration.layers.streams import Tokens
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.checkpoint import open_float_model
from q3edge.cluster.place import Place, Rows, present_place, working_at
from q3edge.cluster.workers import working_with
from q3edge.quantization.scheme import Scheme

INT4 = Scheme(4, 32, False)
_LENGTH = 512
_FACTOR = 2.8  # operations by K^3, of factoring a Hessian; as predicted_work has it
_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 1024, "hidden_size": 1024,
    "intermediate_size": 3072, "num_hidden_layers": 1, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
    "rope_theta": 1e6, "rope_scaling": None, "tie_word_embeddings": True, "attention_bias": False,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "float32",
}  # fmt: skip
_32B = _SHAPE | {
    "vocab_size": 151936, "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
    "num_attention_heads": 64, "tie_word_embeddings": False,
}  # fmt: skip


class Timed:
    """A place whose seconds are counted: those that the process waits for its results."""

    def __init__(self, place: Place) -> None:
        self._place, self.elsewhere = place, place.elsewhere
        self.rows = self.solves = 0.0

    def run(self, work: Callable[..., Iterator[Any]], items: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of `work` for all items."""
        for seconds, result in _timed(self._place.run(work, items)):
            self.solves += seconds
            yield from result

    def run_rows(self, work: Callable[..., Iterator[Any]], blocks: Sequence[Rows]) -> Iterator[Any]:
        """Yield the results of `work` for all blocks of rows."""
        for seconds, result in _timed(self._place.run_rows(work, blocks)):
            self.rows += seconds
            yield from result


def _timed(results: Iterator[Any]) -> Iterator[tuple[float, list[Any]]]:
    while True:
        start = time.perf_counter()
        found = [*_first(results)]
        yield time.perf_counter() - start, found
        if not found:
            return


def _first(results: Iterator[Any]) -> Iterator[Any]:
    for result in results:
        yield result
        return


def write_model(folder: Path) -> None:
    """Write a random checkpoint of the measured shape."""
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(Qwen3Config.from_dict(_SHAPE))
    tensors = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.standard_normal(shape, np.float32) * np.float32(1.5 * shape[-1] ** -0.5)
        for name, shape in shapes.items()
    }
    (folder / "config.json").write_text(json.dumps(_SHAPE))
    save_file(tensors, folder / "model.safetensors")


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Run a scheduler and workers of one thread as processes; yields the scheduler's address."""
    with ExitStack() as stack:
        scheduler = stack.enter_context(_process("scheduler"))
        started = [stack.enter_context(_process("worker", scheduler[1])) for _ in range(workers)]
        assert len(started) == workers
        yield scheduler[1]


@contextmanager
def _process(*role: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen([sys.executable, __file__, "--role", *role], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def _serve(role: str, *address: str) -> None:
    from distributed import Scheduler, Worker

    made = (
        Scheduler(host="127.0.0.1", dashboard_address=":0")
        if role == "scheduler"
        else Worker(*address, nthreads=1, memory_limit=0, host="127.0.0.1", dashboard_address=":0")
    )
    async with made as server:
        print(server.address, flush=True)
        await server.finished()


def calibrated(model: Path, rows: int, scheduler: str | None) -> tuple[str, list[float]]:
    """Calibrate once: a digest of the results, and seconds in all, for rows, for solves, and here."""
    token_ids = np.random.default_rng(1).integers(0, _SHAPE["vocab_size"], (rows, _LENGTH))
    digest = hashlib.sha256()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_float_model(str(model)) as source,
        WorkFolder(Path(folder) / "work", {}) as journal,
        working_with(scheduler) if scheduler else nullcontext(),
    ):
        schemes = {name: INT4 if "_proj" in name else None for name in tensor_shapes(source.config)}
        place, start = Timed(present_place()), time.perf_counter()
        with working_at(place):
            calibration = LayerwiseCalibration(source, schemes, token_ids, journal)
            calibration.run().close()
        seconds = time.perf_counter() - start
        for result in calibration.results():
            for tensor in result.tensors.values():
                digest.update(tensor.codes.tobytes() + tensor.scales.tobytes())
    return digest.hexdigest(), [seconds, place.rows, place.solves, seconds - place.rows - place.solves]


def projection(speed: float, bandwidth: float, rows: int) -> Iterator[str]:
    """Yield a Markdown table of Qwen3-32B's layers on several machines."""
    config = Qwen3Config.from_dict(_32B)
    tokens = Tokens(rows, _LENGTH, held_out_rows(rows), False)
    layer, layers = Layer.of(config, 0), config.num_hidden_layers
    work = LayerWork.of(config, layer, {layer.name(field): INT4 for field in layer.matrices}, tokens)
    alone = float(sum(_FACTOR * group.width**3 for group in work.groups))
    by_rows = work.forward + sum(group.moments(work.tokens) for group in work.groups)
    by_solves = sum(group.choosing + group.solving for group in work.groups) - alone
    squares, weights = sum(4 * group.width**2 for group in work.groups), sum(4 * g.width * g.rows for g in work.groups)
    states = 2 * 4 * work.tokens * config.hidden_size  # before and after the layer
    sent = states + len(tokens.blocks) * squares + 3 * squares + weights  # sums; moments and factor; matrices
    yield "| machines | rows | solves | alone | network | all | gain |"
    yield "|---|---|---|---|---|---|---|"
    whole = 0.0
    for machines in (1, 2, 4, 8):
        largest = -(-len(tokens.blocks) // machines) / len(tokens.blocks)
        parts = [by_rows * largest / speed, by_solves / machines / speed, alone / speed]
        parts.append(sent / bandwidth if machines > 1 else 0.0)
        hours = [layers * part / 3600 for part in parts]
        whole = whole or sum(hours)
        yield f"| {machines} | {' | '.join(f'{h:.2f} h' for h in (*hours, sum(hours)))} | {whole / sum(hours):.2f} |"


def main() -> None:
    """Print the measured and the projected table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--32b-rows", dest="projected", type=int, default=128)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--bandwidth", type=float, default=1.1)
    parser.add_argument("--role", nargs="+")
    given = parser.parse_args()
    if given.role:
        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        asyncio.run(_serve(*given.role))
        return
    print(machine_line(), flush=True)
    print("| where | seconds | rows | solves | here alone | same bytes |\n|---|---|---|---|---|---|", flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        expected, seconds = calibrated(Path(folder), given.rows, None)
        print(f"| one thread here | {' | '.join(f'{s:.1f}' for s in seconds)} | |", flush=True)
        for workers in map(int, given.workers.split(",")):
            with cluster(workers) as address:
                calibrated(Path(folder), 2, address)  # workers have imported everything then
                found, seconds = calibrated(Path(folder), given.rows, address)
            row = f"{' | '.join(f'{s:.1f}' for s in seconds)} | {'yes' if found == expected else 'NO'}"
            print(f"| {workers} workers | {row} |", flush=True)
    print(f"\nQwen3-32B, {given.projected} rows of {_LENGTH} tokens, {given.speed} TFLOP/s, {given.bandwidth} GB/s:\n")
    print(*projection(given.speed * 1e12, given.bandwidth * 1e9, given.projected), sep="\n")


if __name__ == "__main__":
    main()
