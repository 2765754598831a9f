"""How long an int4 model takes to make, and how much memory: q3edge against onnxruntime-genai's builder.

    python benchmarks/build_time.py CHECKPOINT [--repeats 3] [--peer ENV]

CHECKPOINT is a Qwen3 folder (the shapes decide, so random weights of the official shapes do). ENV is the environment
that `benchmarks/peers/make_env.sh onnxruntime-genai ENV` made; without it only q3edge is measured. Both start from
the checkpoint's files in the page cache and end with the ONNX folder on disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from machine import machine_line
from processes import Run, interleaved, measure, table


def q3edge(checkpoint: Path, work: Path, *flags: str) -> Run:
    """`q3edge quantize` then `q3edge export`."""
    _clear(work)
    program = [sys.executable, "-m", "q3edge"]
    return measure(
        [
            [*program, "quantize", str(checkpoint), "-o", str(work / "quantized"), "--method", "rtn", *flags],
            [*program, "export", str(work / "quantized"), "-o", str(work / "onnx")],
        ],
        work.parent / "q3edge.log",
    )


def genai_builder(python: Path, checkpoint: Path, work: Path) -> Run:
    """onnxruntime-genai's model builder, int4 for the CPU, all defaults."""
    _clear(work)
    builder = [str(python), "-m", "onnxruntime_genai.models.builder"]
    arguments = ["-i", str(checkpoint), "-o", str(work / "onnx"), "-p", "int4", "-e", "cpu", "-c", str(work / "cache")]
    return measure([[*builder, *arguments]], work.parent / "genai.log")


def main() -> None:
    """Parse, run everything interleaved, print one Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="environment with onnxruntime-genai")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        jobs: dict[str, Callable[[], Run]] = {
            "q3edge int4-mixed": partial(q3edge, options.checkpoint, work, "--format", "int4-mixed"),
            "q3edge int4 g32 asymmetric": partial(q3edge, options.checkpoint, work, "--format", "int4"),
            "q3edge int4 g32 symmetric": partial(q3edge, options.checkpoint, work, "--format", "int4", "--symmetric"),
        }
        if options.peer:
            python = options.peer / "bin" / "python"
            jobs["onnxruntime-genai builder int4"] = partial(genai_builder, python, options.checkpoint, work)
        print(machine_line(), end="\n\n")
        print(table(interleaved(jobs, options.repeats)))


def _clear(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)


if __name__ == "__main__":
    main()
