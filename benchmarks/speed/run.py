"""Speed of q3edge and its peers on one checkpoint and the same work, in one interleaved run.

    python benchmarks/speed/run.py CHECKPOINT --work FOLDER [--make-envs] [--envs FOLDER] [--only GLOB ...] [--again]
        [--prompt 512] [--new 64] [--depth 0,512,4096] [--threads N] [--rounds 3] [--convert-only | --print]

Conversions and results.json lie in FOLDER/NAME, NAME being the checkpoint's folder; a conversion is made once
(--again makes the chosen ones anew). Each round measures every tool in a fresh process of its own, with nothing else
loaded. A tool that cannot be installed, fails or takes too long becomes a row that says why. Rows of an earlier run of
the same work stay in the table unless they are chosen, marked as such. --print shows the table and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from table import table
from worker import Work, WorkerFailedError, measure, warm_up

from q3edge.architecture.config import Qwen3Config
from q3edge.machine.cpu import default_threads
from q3edge.machine.speed import read_bandwidth

sys.path.extend([str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "peers")])
import environments
import processes
from choice import chosen
from environments import PEER_FOLDER, last_line, python_of
from machine import machine
from speed_contract import CONVERTED

# Tool -> variants. benchmarks/peers/TOOL.txt is its environment (q3edge: this one), speed_TOOL.py its worker.
TOOLS: dict[str, tuple[str, ...]] = {
    "q3edge": (
        "int4-mixed",
        "int4-mixed onnxruntime",
        "int4 g32",
        "int4 g32 onnxruntime",
        "int4 g128",
        "int4 g128 kv8",
        "int4-fast",
        "int4-fast onnxruntime",
        "int4-fast kv8",
        "int4-fast kv8 onnxruntime",
        "int8",
        "int8-dynamic",
    ),
    "llama-cpp": ("Q4_0", "Q4_0 no-flash", "Q4_K_M", "Q8_0"),
    "openvino-genai": ("int4 g128", "int4 g32", "int8"),
    "onnxruntime-genai": ("int4", "int4 last-logits"),
    "mnn": ("int4 g64", "int4 g32"),
    "transformers": ("quantize_dynamic", "bf16", "fp32"),
}


@dataclass(frozen=True)
class Row:
    """One tool and variant, and the folder of its conversion."""

    tool: str
    variant: str
    folder: Path

    @property
    def name(self) -> str:
        """What --only chooses by."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """What the tool printed."""
        return self.folder.parent / "logs" / f"{self.name}.txt"

    @property
    def converted(self) -> dict[str, Any] | None:
        """converted.json; None: not converted."""
        path = self.folder / CONVERTED
        return json.loads(path.read_text()) if path.exists() else None


@dataclass(frozen=True)
class Benchmark:
    """The arguments that every row shares."""

    checkpoint: Path
    folder: Path
    envs: Path
    work: Work

    def rows(self) -> list[Row]:
        """Everything there is to run."""
        return [
            Row(tool, variant, self.folder / f"{tool}-{variant.replace(' ', '-')}")
            for tool, variants in TOOLS.items()
            for variant in variants
        ]

    def convert(self, row: Row) -> None:
        """Make what the tool loads. SystemExit: it failed, the log says why."""
        shutil.rmtree(row.folder, ignore_errors=True)
        processes.measure([self.command("convert", row)], row.log)

    def measure(self, row: Row) -> dict[str, Any]:
        """One round. WorkerFailedError, SystemExit: it failed, the log says why."""
        command = [*self.command("serve", row), "--threads", str(self.work.threads)]
        warm_up(command, row.log, self.work.threads)
        return measure(command, row.log, self.work)

    def command(self, action: str, row: Row) -> list[str]:
        """What starts the row's worker, to "convert" or to "serve"."""
        python = sys.executable if row.tool == "q3edge" else python_of(row.tool, self.envs, row.log)
        script = PEER_FOLDER / f"speed_{row.tool.replace('-', '_')}.py"
        return [python, str(script), action, str(self.checkpoint), str(row.folder), "--variant", row.variant]


class Results:
    """results.json: kept after every process, so that a run that is cut off loses nothing else."""

    def __init__(self, path: Path, benchmark: Benchmark) -> None:
        self._path = path
        work = asdict(benchmark.work) | {"depths": list(benchmark.work.depths)}
        of = {"checkpoint": benchmark.checkpoint.name, "work": work, "machine": machine()}
        self.values: dict[str, Any] = {**of, "runs": {}, "rows": {}}
        if path.exists():
            kept = json.loads(path.read_text())
            if {name: kept[name] for name in of} == of:
                self.values = kept
            else:
                _say(f"{path}: of other work or another machine; begun anew")

    def begin(self, rows: Sequence[Row]) -> None:
        """A new run, which measures `rows`."""
        self._run = time.strftime("%Y-%m-%d %H:%M:%S")
        self.values["runs"][self._run] = {"read_bandwidth": []}
        for row in rows:
            found = row.converted or {"version": "", "note": "", "bytes": 0}
            entry = {name: found[name] for name in ("version", "note", "bytes")}
            self.values["rows"][row.name] = {
                "tool": row.tool, "variant": row.variant, "run": self._run, **entry, "rounds": [], "failure": "not run",
            }  # fmt: skip
        told = {entry["run"] for entry in self.values["rows"].values()}
        self.values["runs"] = {run: value for run, value in self.values["runs"].items() if run in told}
        order = list(TOOLS)
        self.values["rows"] = dict(sorted(self.values["rows"].items(), key=lambda item: order.index(item[1]["tool"])))

    def add_bandwidth(self, value: float) -> None:
        """Bytes per second, measured before a round."""
        self.values["runs"][self._run]["read_bandwidth"].append(value)

    def add(self, row: Row, found: dict[str, Any] | None) -> None:
        """A round's figures; None: the row failed."""
        entry = self.values["rows"][row.name]
        entry["failure"] = None if found else last_line(row.log)
        if found:
            entry["rounds"].append(found)
        self._path.write_text(json.dumps(self.values, indent=1) + "\n")


def convert(benchmark: Benchmark, rows: Sequence[Row], again: bool) -> set[Row]:
    """Convert what is missing; the rows that failed."""
    failed = set()
    for row in rows:
        row.log.parent.mkdir(parents=True, exist_ok=True)
        row.log.unlink(missing_ok=True)
        if again or (row.converted or {}).get("checkpoint") != str(benchmark.checkpoint):
            _say(f"convert {row.name}")
            try:
                benchmark.convert(row)
            except SystemExit:
                _say(f"{row.name}: {last_line(row.log)}")
                failed.add(row)
    return failed


def measure_all(benchmark: Benchmark, rows: Sequence[Row], failed: set[Row], rounds: int) -> None:
    """Every row once a round, but for the failed ones; everything is kept in results.json."""
    results = Results(benchmark.folder / "results.json", benchmark)
    results.begin(rows)
    for row in failed:
        results.add(row, None)
    for turn in range(rounds):
        results.add_bandwidth(read_bandwidth(benchmark.work.threads))
        for row in rows:
            if row in failed:
                continue
            _say(f"{turn + 1}/{rounds} {row.name}")
            try:
                results.add(row, benchmark.measure(row))
            except (WorkerFailedError, SystemExit):
                failed.add(row)
                results.add(row, None)
                _say(f"{row.name}: {last_line(row.log)}")


def main() -> None:
    """Parse, make environments, run, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="conversions, results, and environments unless --envs")
    parser.add_argument("--envs", type=Path, help="one environment per peer, by name")
    parser.add_argument("--make-envs", action="store_true", help="make the environments that are missing")
    parser.add_argument("--only", nargs="+", metavar="GLOB", help="run these, e.g. 'q3edge-*'")
    parser.add_argument("--again", action="store_true", help="convert the chosen rows anew")
    parser.add_argument("--convert-only", action="store_true", help="measure nothing")
    parser.add_argument("--print", action="store_true", help="print the table of the last results")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--depth", type=_depths, default=(0, 512, 4096), metavar="N,N")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkpoint = options.checkpoint.resolve()
    folder = options.work / checkpoint.name
    if not options.print:
        context, longest = Qwen3Config.load(checkpoint).max_position_embeddings, max(options.prompt, *options.depth)
        if longest + options.new + 1 > context:
            parser.error(f"{longest} tokens and {options.new} more: the model's context is {context}")
        work = Work(options.prompt, options.new, options.depth, options.threads)
        benchmark = Benchmark(checkpoint, folder, options.envs or options.work / "envs", work)
        names = chosen([row.name for row in benchmark.rows()], options.only)
        rows = [row for row in benchmark.rows() if row.name in names]
        if options.make_envs:
            for peer in dict.fromkeys(row.tool for row in rows if row.tool != "q3edge"):
                environments.make(peer, benchmark.envs)
        failed = convert(benchmark, rows, options.again)
        if options.convert_only:
            return
        measure_all(benchmark, rows, failed, options.rounds)
    text = table(json.loads((folder / "results.json").read_text()))
    (folder / "table.md").write_text(text + "\n")
    print(text)


def _depths(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
