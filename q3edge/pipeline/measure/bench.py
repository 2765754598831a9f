"""Speed of an artifact on this machine: medians over processes, and the share of the memory bandwidth."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec
from q3edge.artifact import shown_path
from q3edge.defaults import BENCH_DEPTHS, BENCH_NEW, BENCH_PROMPT, BENCH_REPEATS
from q3edge.errors import InputError, UsageError
from q3edge.kernels.choice import choose
from q3edge.machine.cpu import cpu_name, default_threads
from q3edge.machine.speed import read_bandwidth
from q3edge.pipeline.footprint import weight_bytes_per_token
from q3edge.pipeline.measure.bench_process import FIRST_TOKEN_PROMPT
from q3edge.quantization.recipe import Recipe
from q3edge.report.content import Spread
from q3edge.runtime.session import kernels as session_kernels
from q3edge.runtime.session.decoder import note_slow_products
from q3edge.runtime.session.loader import open_artifact
from q3edge.runtime.session.offload import PACKING, experts_on_disk, no_experts


@dataclass(frozen=True, slots=True)
class Depth:
    """Speed of decoding with `depth` tokens of context.

    bytes_per_token: weights, keys and values that one step reads; bandwidth_share: bytes_per_token times tokens/s, as a
    share of the machine's measured bandwidth. peak_bytes: of the process so far, the shallower depths included.
    """

    depth: int
    tokens_per_second: Spread
    bytes_per_token: int
    bandwidth_share: float
    peak_bytes: Spread


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Result of `q3edge bench`. Seconds; first_token: of a prompt of 32 tokens, from the start of the process.

    left_out: default depths that the model's context does not hold. kernels: as `Decoder.kernels` says.
    """

    folder: str
    model_bytes: int
    threads: int
    repeats: int
    prompt: int
    new: int
    load: Spread
    first_token: Spread
    prefill_tokens_per_second: Spread
    depths: tuple[Depth, ...]
    left_out: tuple[int, ...]
    read_bandwidth: float
    cpu: str
    onnxruntime: str
    kernels: str

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def bench_artifact(
    folder: Path,
    *,
    prompt: int = BENCH_PROMPT,
    new: int = BENCH_NEW,
    depths: Sequence[int] | None = None,
    threads: int | None = None,
    repeats: int = BENCH_REPEATS,
    offload: bool | None = None,
    kernels: str | None = None,
) -> BenchResult:
    """Time the artifact in `folder` in `repeats` processes: a prefill of `prompt` tokens, `new` tokens at each depth.

    depths None: those of BENCH_DEPTHS that the model's context holds; a note names the others. The default prompt is
    shortened to the context, with a note. offload: experts stay on the disk (None: where they would not fit in
    memory); a process that packed weights first is not counted. kernels: as for `Decoder`.
    UsageError: prompt or depth beyond the context, offload without experts, or kernels that cannot be had. InputError:
    a broken folder, or a process that failed.
    """
    choose(kernels)  # refused here, not in a process
    manifest = open_artifact(folder)
    note_slow_products(manifest)
    if offload and not experts_on_disk(folder):
        raise no_experts(folder)
    config = Qwen3Config.load(folder)
    context = config.max_position_embeddings
    left_out = tuple(depth for depth in BENCH_DEPTHS if depth + new > context) if depths is None else ()
    chosen = sorted(depths) if depths is not None else [depth for depth in BENCH_DEPTHS if depth not in left_out]
    if prompt == BENCH_PROMPT and FIRST_TOKEN_PROMPT <= context - new < prompt:  # nobody asked for the default
        prompt = context - new
        progress.note(f"prompt of {prompt} tokens: with {new} new ones, the model's whole context")
    if (longest := max([prompt, FIRST_TOKEN_PROMPT, *chosen]) + new) > context:
        raise UsageError(
            f"{longest} tokens of prompt, depth and new ones: the model's context is {context}; ask for less"
        )
    if left_out:
        named = ", ".join(map(str, left_out))
        progress.note(f"depth {named} left out: with {new} new tokens beyond the model's context of {context}")
    threads = threads or default_threads()
    arguments: dict[str, Any] = {
        "folder": str(folder), "prompt": prompt, "new": new, "depths": chosen, "threads": threads, "offload": offload,
        "kernels": kernels,
    }  # fmt: skip
    runs, bandwidth, noted = list[dict[str, Any]](), read_bandwidth(threads), set[str]()
    with progress.task("bench", repeats) as advance:
        for _ in range(repeats):
            runs.append(_noted(arguments, noted))
            bandwidth = max(bandwidth, read_bandwidth(threads))
            advance(1)
    recipe = Recipe.from_json(manifest.recipe)
    weights = weight_bytes_per_token(config, recipe.resolve(config))
    kv = KVCacheSpec.of(config, recipe.kv_cache).bytes_per_token()
    return BenchResult(
        folder=shown_path(folder),
        model_bytes=manifest.model_bytes,
        threads=threads,
        repeats=repeats,
        prompt=prompt,
        new=new,
        load=Spread.of([run["load"] for run in runs]),
        first_token=Spread.of([run["first_token"] for run in runs]),
        prefill_tokens_per_second=Spread.of([prompt / run["prefill"] for run in runs]),
        depths=tuple(_depth(depth, runs, weights + kv * depth, bandwidth) for depth in chosen),
        left_out=left_out,
        read_bandwidth=bandwidth,
        cpu=cpu_name(),
        onnxruntime=ort.__version__,
        kernels=runs[0]["kernels"],
    )


def _noted(arguments: dict[str, Any], noted: set[str]) -> dict[str, Any]:
    """Run a process, again if it had to pack weights; what it noted is noted here, once."""
    while True:
        found = _run(arguments)
        new = [line for line in found["notes"] if line not in noted]
        for line in new:
            progress.note(line)
        noted.update(new)
        if not any(line.startswith((PACKING, session_kernels.PACKING)) for line in new):
            return found


def _run(arguments: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps({**arguments, "started": time.time()})
    command = [sys.executable, "-m", "q3edge.pipeline.measure.bench_process", text]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{arguments['folder']}: the measured process failed ({said[-1]})")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _depth(depth: int, runs: Sequence[dict[str, Any]], bytes_per_token: int, bandwidth: float) -> Depth:
    rates = Spread.of([1 / float(np.median(run["decode"][str(depth)])) for run in runs])
    peaks = Spread.of([run["peak_bytes"][str(depth)] for run in runs])
    return Depth(depth, rates, bytes_per_token, rates.median * bytes_per_token / bandwidth, peaks)
