"""Requests at the same time, of q3edge and of the peers that batch on a CPU, in one interleaved run.

    python benchmarks/speed/together.py CHECKPOINT --work FOLDER [--envs FOLDER] [--make-envs] [--rounds 3]
        [--work-of 1x16+128 16x16+128 16x128+64]

Folders and environments are those of `run.py`. CxP+N: C clients at once with P random tokens each, and N tokens for
each answer. Every round has each tool in a fresh process, which does the smallest work once before it counts.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from run import Benchmark, Row, convert
from worker import Work, Worker, WorkerFailedError

from q3edge.machine.cpu import default_threads

sys.path.extend([str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "peers")])
import environments
from choice import chosen as those_chosen
from machine import machine_line

ROWS = (
    ("q3edge", "int4-fast kv8"), ("q3edge", "int4-mixed"), ("llama-cpp", "Q4_0"),
    ("openvino-genai", "int4 g128 batching"),
)  # fmt: skip


def main() -> None:
    """Print a line for each tool and work: tokens per second, median and range over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--envs", type=Path)
    parser.add_argument("--make-envs", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="GLOB", help="run these, e.g. 'q3edge-*'")
    parser.add_argument("--convert-only", action="store_true")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--work-of", nargs="+", default=["1x16+128", "16x16+128", "16x128+64"], metavar="CxP+N")
    chosen = parser.parse_args()
    folder = chosen.work / chosen.checkpoint.resolve().name
    envs = chosen.envs or chosen.work / "envs"
    benchmark = Benchmark(chosen.checkpoint.resolve(), folder, envs, Work(0, 0, (), chosen.threads))
    rows = [Row(tool, variant, folder / f"{tool}-{variant.replace(' ', '-')}") for tool, variant in ROWS]
    names = those_chosen([row.name for row in rows], chosen.only)
    rows = [row for row in rows if row.name in names]
    if chosen.make_envs:
        for peer in dict.fromkeys(row.tool for row in rows if row.tool != "q3edge"):
            environments.make(peer, envs)
    failed = convert(benchmark, rows, again=False)
    if chosen.convert_only:
        return
    works = [tuple(map(int, text.replace("x", " ").replace("+", " ").split())) for text in chosen.work_of]
    found: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = defaultdict(list)
    for _ in range(chosen.rounds):
        for row in rows:
            try:
                for work, answer in _round(benchmark, row, works) if row not in failed else ():
                    found[row.name, work].append(answer)
            except WorkerFailedError:
                failed.add(row)
                print(f"{row.name}: failed, see {row.log}", file=sys.stderr)
    print(machine_line())
    for work in works:
        for row in rows:
            if answers := found[row.name, work]:
                print(_line(row.name, work, answers))


def _round(benchmark: Benchmark, row: Row, works: Sequence[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Answers of a fresh process to each work."""
    threads = benchmark.work.threads
    with Worker([*benchmark.command("serve", row), "--threads", str(threads)], row.log, threads) as worker:
        worker.read()
        worker.ask("together 2 16 8")
        for work in works:
            yield work, worker.ask(f"together {' '.join(map(str, work))}")


def _line(name: str, work: tuple[int, ...], answers: Sequence[dict[str, Any]]) -> str:
    clients, prompt, new = work
    rates = [clients * new / answer["seconds"] for answer in answers]
    firsts = [answer["first"] for answer in answers if answer["first"] is not None]
    first = f", first token {median(firsts):.2f} s" if firsts else ""
    shown = f"{median(rates):.0f} tokens/s ({min(rates):.0f}-{max(rates):.0f}){first}"
    return f"{clients} clients, {prompt} in, {new} out: {name} {shown}"


if __name__ == "__main__":
    main()
