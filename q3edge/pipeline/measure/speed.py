"""Speed for a report: of an artifact in new processes, of a baseline by its matrix products alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer, layers_of
from q3edge.architecture.tensors import head_tensor
from q3edge.checkpoint.source import WeightSource
from q3edge.evaluation.baselines import Baseline, Product, quiet
from q3edge.machine.cpu import default_threads
from q3edge.pipeline.measure.bench import bench_artifact
from q3edge.reference.parallel import torch_threads
from q3edge.reference.weights import read_tensor
from q3edge.report.content import Speed, Spread

PROMPT, NEW, REPEATS = 128, 32, 3
_WARM_UP = 2  # passes over a layer that are not counted


def artifact_speed(folder: Path, threads: int | None = None, kernels: str | None = None) -> Speed:
    """Time a prefill of PROMPT tokens, and NEW tokens from an empty context, in REPEATS processes.

    InputError: one failed.
    """
    prompt = min(PROMPT, Qwen3Config.load(folder).max_position_embeddings - NEW)
    found = bench_artifact(
        folder, prompt=prompt, new=NEW, depths=(0,), threads=threads, repeats=REPEATS, kernels=kernels
    )
    empty_context = found.depths[0]
    return Speed(
        tokens_per_second=empty_context.tokens_per_second,
        prefill_tokens_per_second=found.prefill_tokens_per_second,
        peak_bytes=empty_context.peak_bytes,
        repeats=REPEATS,
        prompt=prompt,
        depth=0,
        new=NEW,
        threads=found.threads,
    )


def baseline_speed(baseline: Baseline, source: WeightSource, threads: int | None = None) -> Speed:
    """Time the matrix products of a token, layer by layer, so that only one layer is in memory.

    Of experts the first ones stand for those that are chosen. An upper bound of tokens/s: attention, norms and Python
    are left out, and a layer may stay in the CPU's cache.
    """
    threads = threads or default_threads()
    with torch_threads(threads), quiet(), torch.no_grad():
        runs = [_layer_seconds(baseline, source, layer) for layer in layers_of(source.config)]
        runs.append(_seconds([_head(baseline, source)]))
    rates = [1 / sum(run[repeat] for run in runs) for repeat in range(REPEATS)]
    return Speed(Spread.of(rates), None, None, REPEATS, prompt=0, depth=0, new=1, threads=threads, products_only=True)


def _layer_seconds(baseline: Baseline, source: WeightSource, layer: Layer) -> list[float]:
    products = []
    for field in _used(layer, source.config):
        weights = read_tensor(source, layer.name(field))
        products.append((baseline.make(weights), weights.shape[1]))
    return _seconds(products)


def _used(layer: Layer, config: Qwen3Config) -> list[str]:
    """Matrices that one token is multiplied with; of experts as many as are chosen for it."""
    chosen = 0 if config.moe is None else config.moe.num_experts_per_tok
    groups = (group for group in layer.groups if group.expert is None or group.expert < chosen)
    return [field for group in groups for field in group.matrices]


def _head(baseline: Baseline, source: WeightSource) -> tuple[Product, int]:
    weights = read_tensor(source, head_tensor(source.config))
    if baseline.rounds_head:
        return baseline.make(weights), weights.shape[1]
    return lambda values: torch.nn.functional.linear(values, weights), weights.shape[1]


def _seconds(products: Sequence[tuple[Product, int]]) -> list[float]:
    """Seconds of each of REPEATS passes over all products, with one token."""
    values = [(product, torch.randn(1, width)) for product, width in products]
    seconds = []
    for _ in range(_WARM_UP + REPEATS):
        start = time.perf_counter()
        for product, token in values:
            product(token)
        seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP:]
