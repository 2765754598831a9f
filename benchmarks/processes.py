"""Time whole processes as a user waits for them: wall seconds, CPU seconds, peak RSS; repeated and interleaved."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One finished process (or a chain of them): seconds, and MB of the largest one."""

    wall: float
    cpu: float
    peak_mb: float


def measure(commands: Sequence[Sequence[str]], log: Path) -> Run:
    """Run the commands one after another; their output goes to `log`. Exits if one of them fails."""
    wall = cpu = peak = 0.0
    for command in commands:
        with log.open("ab") as out:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            wall += time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"failed with {process.returncode}: {' '.join(command)}\nsee {log}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss / 1024)
    return Run(wall, cpu, peak)


def interleaved(jobs: Mapping[str, Callable[[], Run]], repeats: int) -> dict[str, list[Run]]:
    """Every job `repeats` times, in turn, so that drift of the machine meets all of them alike."""
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for turn in range(repeats):
        for name, job in jobs.items():
            runs[name].append(job())
            last = runs[name][-1]
            print(f"{turn + 1}/{repeats} {name}: {last.wall:.1f} s, {last.peak_mb:.0f} MB", file=sys.stderr)
    return runs


def table(runs: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: median [min, max] of each figure."""
    lines = ["| | wall s | CPU s | peak RSS MB | runs |", "|---|---|---|---|---|"]
    for name, found in runs.items():
        wall, cpu = spread([r.wall for r in found], 1), spread([r.cpu for r in found], 1)
        lines.append(f"| {name} | {wall} | {cpu} | {spread([r.peak_mb for r in found], 0)} | {len(found)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """median [min, max]."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
