"""Measured process of `q3edge bench`: loads an artifact, times it, prints JSON. bench.py runs one per repeat.

Each repeat is a new process, so that loading is cold and the peak of memory is the model's alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.machine.memory import peak_memory
from q3edge.progress import Silent, report_to
from q3edge.runtime.engine.slots import PREFILL_CHUNK
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.kv_cache import KVCache

FIRST_TOKEN_PROMPT = 32  # tokens


class Notes(Silent):
    """Listener that keeps the lines it is told."""

    def __init__(self) -> None:
        """Begin with none."""
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


def measure(
    folder: Path,
    started: float,
    prompt: int,
    new: int,
    depths: Iterable[int],
    threads: int,
    offload: bool | None,
    kernels: str | None,
) -> dict[str, Any]:
    """Measure seconds of loading, first token since `started` (time.time()), prefill, and each decoded token.

    Also what was noted while the model was loaded, and the peak of memory in bytes at each depth. depths: context
    lengths in rising order. Token ids are random, from a fixed seed: the work does not depend on them. offload,
    kernels: as for `Decoder`.
    """
    begin = time.perf_counter()
    notes = Notes()
    with report_to(notes):
        decoder = Decoder(folder, threads=threads, offload=offload, kernels=kernels)
    load = time.perf_counter() - begin
    deepest = max([prompt, FIRST_TOKEN_PROMPT, *depths]) + new
    ids = np.random.default_rng(0).integers(0, decoder.config.vocab_size, (1, deepest))
    cache = decoder.new_cache(deepest)
    logits = np.empty((1, 1, decoder.config.vocab_size), np.float32)
    _prefill(decoder, cache, ids[:, :FIRST_TOKEN_PROMPT])
    first = time.time() - started
    cache.truncate(0)
    prefill = _prefill(decoder, cache, ids[:, :prompt])
    found: dict[str, Any] = {
        "load": load, "first_token": first, "prefill": prefill, "notes": notes.lines, "decode": {}, "peak_bytes": {},
        "kernels": decoder.kernels,
    }  # fmt: skip
    for depth in depths:
        if cache.length < depth:
            _prefill(decoder, cache, ids[:, cache.length : depth])
        cache.truncate(depth)
        found["decode"][depth] = [_step(decoder, cache, ids[:, i : i + 1], logits) for i in range(new)]
        found["peak_bytes"][depth] = peak_memory()
    return found


def _prefill(decoder: Decoder, cache: KVCache, ids: NDArray[np.int64]) -> float:
    begin = time.perf_counter()
    for start in range(0, ids.shape[1], PREFILL_CHUNK):
        decoder.forward(ids[:, start : start + PREFILL_CHUNK], cache)
    return time.perf_counter() - begin


def _step(decoder: Decoder, cache: KVCache, ids: NDArray[np.int64], out: NDArray[np.float32]) -> float:
    begin = time.perf_counter()
    decoder.forward(ids, cache, out=out)[0, -1].argmax()
    return time.perf_counter() - begin


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    print(json.dumps(measure(Path(arguments.pop("folder")), **arguments)))
