"""Experts that stay on the disk, in a process with less memory than its model's file, against all in memory.

    python benchmarks/offload.py ARTIFACT [--limit 0.5] [--prompt 64] [--new 48] [--rounds 3] [--threads N]

Each measurement is a process of its own; with --limit it runs in a control group of Linux whose memory is that share of
the data file's size, pages of files that it is the first to read included (root, or a group that the user may divide).
"memory": no limit, everything packed on the heap. "warm": all files were read before, outside of the group, so that the
disk is not needed. "cold": none of them is in the page cache. Random token ids: every layer's experts are as good as
drawn anew for each token, which is the worst case for what is kept. The experts are packed before the first round,
within the same limit, in a time that is printed. Packed weights lie in $Q3EDGE_CACHE (see docs/usage.md).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_line
from processes import spread

from q3edge.artifact import DATA_FILE
from q3edge.machine.cpu import default_threads
from q3edge.runtime.engine.slots import PREFILL_CHUNK
from q3edge.runtime.session.decoder import Decoder
from q3edge.storage.kept_folder import kept_folder

_GROUPS = Path("/sys/fs/cgroup")


def measured(artifact: Path, prompt: int, new: int, threads: int, offload: bool | None) -> dict[str, Any]:
    """Seconds of loading, of a prompt and of each token behind it; bytes on the heap, and the tokens."""
    begin = time.perf_counter()
    decoder = Decoder(artifact, threads=threads, offload=offload)
    load = time.perf_counter() - begin
    ids = np.random.default_rng(0).integers(1000, decoder.config.vocab_size - 1000, (1, prompt + new))
    cache, out = decoder.new_cache(prompt + new), np.empty((1, 1, decoder.config.vocab_size), np.float32)
    begin = time.perf_counter()
    for start in range(0, prompt, PREFILL_CHUNK):
        decoder.forward(ids[:, start : min(start + PREFILL_CHUNK, prompt)], cache, out=out)
    read = time.perf_counter() - begin
    steps, tokens = [], []
    for place in range(prompt, prompt + new):
        begin = time.perf_counter()
        tokens.append(int(decoder.forward(ids[:, place : place + 1], cache, out=out)[0, -1].argmax()))
        steps.append(time.perf_counter() - begin)
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {
        name: 1024 * int(value.split()[0])
        for name, _, value in (line.partition(":") for line in lines)
        if " kB" in value
    }
    return {
        "load": load,
        "prompt": read,
        "steps": steps,
        "tokens": tokens,
        "heap": sizes["RssAnon"],
        "peak": sizes["VmHWM"],
    }


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A child of this process's control group, with so many bytes of memory, of either version."""
    entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    old = next((path for _, names, path in entries if "memory" in names.split(",")), None)
    parent, name = (
        (_GROUPS / next(path for _, names, path in entries if not names).strip("/"), "memory.max")
        if old is None
        else (_GROUPS / "memory" / old.strip("/"), "memory.limit_in_bytes")
    )
    group = parent / f"q3edge-offload-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def run(artifact: Path, options: argparse.Namespace, offload: bool | None, limit: int | None) -> dict[str, Any]:
    """`measured` in a process of its own, within the limit."""
    arguments = [str(artifact), options.prompt, options.new, options.threads, offload]
    command = [sys.executable, __file__, "--worker", json.dumps(arguments)]
    if limit is None:
        done = subprocess.run(command, capture_output=True, text=True)
    else:
        with control_group(limit) as group:
            enter = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731 - runs in the child
            done = subprocess.run(command, capture_output=True, text=True, preexec_fn=enter)
    if done.returncode:
        raise SystemExit(f"offload {offload}, limit {limit}: ended with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def files(artifact: Path) -> list[Path]:
    """The weights, and the packed ones."""
    return [artifact / DATA_FILE, *kept_folder("experts").glob("*/experts.bin")]


def read_files(artifact: Path) -> None:
    """Bring the files into the page cache."""
    for path in files(artifact):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def forget_files(artifact: Path) -> None:
    """Drop the files from the page cache."""
    for path in files(artifact):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measure all three in turn; print a table of medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--limit", type=float, default=0.5)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args()
    artifact, size = options.artifact.resolve(), (options.artifact / DATA_FILE).stat().st_size
    limit = int(options.limit * size)
    before = files(artifact)
    first = run(artifact, options, None, limit)
    packed = files(artifact) != before
    print(f"first loading within the limit, packing{'' if packed else ' not'} included: {first['load']:.0f} s")
    kinds = {
        "memory": (False, None, read_files),
        "warm": (None, limit, read_files),
        "cold": (None, limit, forget_files),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (offload, bound, prepare) in kinds.items():
            prepare(artifact)
            runs[name].append(run(artifact, options, offload, bound))
            steps = 1000 * statistics.median(runs[name][-1]["steps"])
            print(f"{name}: {steps:.1f} ms a token", file=sys.stderr, flush=True)
    if any(found["tokens"] != first["tokens"] for each in runs.values() for found in each):
        raise SystemExit("the tokens differ")
    print(
        f"{machine_line()} {artifact.name}: {size / 1e9:.2f} GB of weights, {options.threads} threads; limit ", end=""
    )
    print(f"{limit / 1e9:.2f} GB; prompt of {options.prompt} tokens, {options.new} behind it; median [min, max] of")
    print(f"{options.rounds} processes.\n")
    print("| experts | load s | prompt tokens/s | ms a token | first 8, ms each | tokens/s | heap MB |")
    print("|---|---|---|---|---|---|---|")
    for name, each in runs.items():
        steps = [statistics.median(found["steps"]) for found in each]
        columns = (
            spread([found["load"] for found in each], 1),
            spread([options.prompt / found["prompt"] for found in each], 0),
            spread([1000 * step for step in steps], 1),
            spread([1000 * statistics.mean(found["steps"][:8]) for found in each], 1),
            spread([1 / step for step in steps], 1),
            spread([found["heap"] / 1e6 for found in each], 0),
        )
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        folder, *numbers = json.loads(sys.argv[2])
        print(json.dumps(measured(Path(folder), *numbers)))
    else:
        main()
