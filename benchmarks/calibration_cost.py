"""What a calibration is predicted to take against what it takes: seconds, peak memory, peak disk.

    python benchmarks/calibration_cost.py CHECKPOINT [--rows 16,64] [--length 512] [--format int4]
        [--reconstruct] [--tune]

Runs `q3edge quantize` on random token ids once for each number of rows. Time grows with the rows by what a token
takes, and the rest is what solving takes: the factors at the top of the pipeline's forecast.py are fitted to that.
Seconds mean something only if nothing else runs; CPU seconds are shown to tell. Bytes are those of the work folder and
the output together, sampled every 10 ms.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from machine import machine_line
from processes import measure

from q3edge.checkpoint import open_float_model
from q3edge.machine.cpu import has_fast_bfloat16
from q3edge.machine.speed import matrix_speed
from q3edge.pipeline.quantize.forecast import Machine, Workload, forecast
from q3edge.quantization.recipe import Recipe


@contextmanager
def peak_bytes(folder: Path) -> Iterator[list[int]]:
    """The most bytes that files below `folder` had while the block ran; filled when it ends."""
    found, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            found[0] = max(found[0], sum(map(_size, folder.rglob("*"))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Print one Markdown row per number of rows: predicted / measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rows", default="16,64")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--format", default="int4")
    parser.add_argument("--reconstruct", action="store_true")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    print(machine_line(), end="\n\n")
    print("| rows | seconds | CPU s | RAM MB | disk MB | probe GFLOP/s |\n|---|---|---|---|---|---|")
    for rows in map(int, options.rows.split(",")):
        print(_row(options, rows), flush=True)


def _row(options: argparse.Namespace, rows: int) -> str:
    checkpoint, length, format_name = options.checkpoint, options.length, options.format
    with open_float_model(checkpoint) as opened:
        config = opened.config
    machine = Machine(matrix_speed(), torch.get_num_threads(), has_fast_bfloat16())
    schemes = Recipe.for_format(format_name).fitted_to(config)[0].resolve(config)
    load = Workload(config, schemes, rows, length, reconstructed=options.reconstruct, tuned=options.tune)
    predicted = forecast(load, machine)
    with tempfile.TemporaryDirectory() as folder:
        tokens, output = Path(folder) / "tokens.npy", Path(folder) / "out"
        output.mkdir()
        np.save(tokens, np.random.default_rng(0).integers(0, config.vocab_size, (rows, length)))
        command = [sys.executable, "-m", "q3edge", "quantize", str(checkpoint), "-o", str(output / "quantized")]
        command += ["--format", format_name, "--method", "gptq", "--calibration", str(tokens)]
        command += [flag for flag in ("--reconstruct", "--tune") if getattr(options, flag[2:])]
        with peak_bytes(output) as peak:
            run = measure([command], Path(folder) / "log")
    cells = [
        str(rows),
        f"{predicted.seconds:.0f} / {run.wall:.0f}",
        f"{run.cpu:.0f}",
        f"{predicted.ram_bytes / 1e6:.0f} / {run.peak_mb * 1.048576:.0f}",
        f"{predicted.disk_bytes / 1e6:.1f} / {peak[0] / 1e6:.1f}",
        f"{machine.speed / 1e9:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it came and went
        return 0


if __name__ == "__main__":
    main()
