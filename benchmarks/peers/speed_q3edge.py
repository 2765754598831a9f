"""q3edge: `quantize --method rtn`, `export`, and its Decoder in the chunks that `q3edge run` prefills in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from speed_contract import StepEngine, Together, Variant, main

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.slots import PREFILL_CHUNK, Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder

# Variant -> flags of `q3edge quantize`.
_FLAGS = {
    "int4-mixed": ("--format", "int4-mixed"),
    "int4 g32": ("--format", "int4", "--group-size", "32"),
    "int4 g128": ("--format", "int4", "--group-size", "128"),
    "int4 g128 kv8": ("--format", "int4", "--group-size", "128", "--kv", "int8"),
    "int4-fast": ("--format", "int4-fast"),
    "int4-fast kv8": ("--format", "int4-fast", "--kv", "int8"),
    "int8": ("--format", "int8"),
    "int8-dynamic": ("--format", "int8-dynamic"),
}
ONNXRUNTIME = " onnxruntime"  # end of the name of a variant that is run by onnxruntime's kernels alone


class Q3edge(StepEngine):
    """An artifact's Decoder."""

    def __init__(self, folder: Path, threads: int, kernels: str | None = None) -> None:
        self._decoder = Decoder(folder / "exported", threads=threads, kernels=kernels)
        self._logits = np.empty((1, 1, self._decoder.config.vocab_size), np.float32)  # as the engine's slots have it

    def start(self, capacity: int) -> None:
        """A new cache."""
        self._cache = self._decoder.new_cache(capacity)

    def forward(self, tokens: Sequence[int]) -> int:
        """In chunks; logits of the last position of each."""
        ids = np.array([tokens], np.int64)
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = ids[:, start : start + PREFILL_CHUNK]
            logits = self._decoder.forward(chunk, self._cache, out=self._logits)
        return int(logits[0, -1].argmax())

    def run_together(self, prompts: Sequence[Sequence[int]], new: int) -> Together:
        """An engine's requests, as `q3edge serve` has them."""
        context = self._decoder.config.max_position_embeddings
        requests = [Request(prompt, GenerationSettings(new), context) for prompt in prompts]
        engine = Engine(Slots(self._decoder, len(prompts)))
        begin = time.perf_counter()
        for request in requests:
            engine.add(request)
        while engine.busy:
            engine.step()
        seconds = time.perf_counter() - begin
        if any(len(request.new_ids) != new for request in requests):
            raise SystemExit("an answer has another number of tokens")
        return Together(seconds, float(np.median([request.statistics.time_to_first_token for request in requests])))


def convert(checkpoint: Path, folder: Path, flags: Sequence[str]) -> None:
    """The two commands; the quantized checkpoint between them is not kept."""
    program, quantized = [sys.executable, "-m", "q3edge"], folder / "quantized"
    quantize = ["quantize", str(checkpoint), "-o", str(quantized), "--method", "rtn", *flags]
    export = ["export", str(quantized), "-o", str(folder / "exported")]
    for command in (quantize, export):
        if code := subprocess.run([*program, *command]).returncode:
            sys.exit(code)  # it has said why
    shutil.rmtree(quantized)


if __name__ == "__main__":
    variants = {}
    for name, flags in _FLAGS.items():
        for end, kernels in (("", None), (ONNXRUNTIME, "onnxruntime")):
            variants[name + end] = Variant(
                partial(convert, flags=flags), partial(Q3edge, kernels=kernels), ["exported/onnx/*"]
            )
    main("q3edge", variants)
