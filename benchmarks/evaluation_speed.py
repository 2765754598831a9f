"""Seconds of a teacher-forced `q3edge eval` against those of the two forward passes that it cannot do without.

    python benchmarks/evaluation_speed.py CHECKPOINT ARTIFACT --suite FILE ... [--limit N] [--rounds 3]

The passes: transformers' float32 model and onnxruntime's session of the artifact, each over the passages that the
evaluation reads, one at a time, logits of all positions, nothing done with them. Each of the three is a process of its
own and they take turns; loading is not counted for the passes, but everything is for the evaluation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_line
from numpy.typing import NDArray

from q3edge.evaluation.scorecard.passages import encode_suites
from q3edge.evaluation.suites.selection import Selection
from q3edge.evaluation.suites.suite_files import read_suite
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer


def passages(artifact: Path, files: Sequence[Path], limit: int | None) -> list[NDArray[np.int64]]:
    """The token ids that both models read, one array for each passage."""
    decoder = Decoder(artifact)
    tokenizer = Tokenizer.load(artifact, decoder.config.vocab_size)
    suites = Selection(None, limit).apply([read_suite(path) for path in files])
    context = decoder.config.max_position_embeddings
    encoded = encode_suites(artifact, tokenizer, context, suites, limit)
    return [passage.window.inputs for passage in encoded.passages]


def float_pass(checkpoint: Path, inputs: Sequence[NDArray[np.int64]]) -> float:
    """Seconds of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        model(torch.from_numpy(inputs[0][None]))
        begin = time.perf_counter()
        for ids in inputs:
            model(torch.from_numpy(ids[None]), use_cache=False)
    return time.perf_counter() - begin


def quantized_pass(artifact: Path, inputs: Sequence[NDArray[np.int64]]) -> float:
    """Seconds of onnxruntime, each passage at once."""
    decoder = Decoder(artifact)
    decoder.forward(inputs[0][None], decoder.new_cache(len(inputs[0])), keep=0)
    begin = time.perf_counter()
    for ids in inputs:
        decoder.forward(ids[None], decoder.new_cache(len(ids)), keep=0)
    return time.perf_counter() - begin


def main() -> None:
    """Print one line a round, and the median of the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--suite", type=Path, action="append", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["float", "quantized"], help="one pass; prints its seconds and the tokens")
    options = parser.parse_args()
    if options.only:
        inputs = passages(options.artifact, options.suite, options.limit)
        float_is_meant = options.only == "float"
        seconds = float_pass(options.checkpoint, inputs) if float_is_meant else quantized_pass(options.artifact, inputs)
        print(json.dumps({"seconds": seconds, "tokens": sum(map(len, inputs))}))
        return
    suites = [flag for path in options.suite for flag in ("--suite", str(path))]
    limit = [] if options.limit is None else ["--limit", str(options.limit)]
    models = [str(options.checkpoint), str(options.artifact)]
    print(machine_line())
    ratios = []
    for _ in range(options.rounds):
        by_pass = [_answer([__file__, *models, *suites, *limit, "--only", name]) for name in ("float", "quantized")]
        reference = ["--reference", str(options.checkpoint), *suites, *limit, "--no-cache", "--json"]
        begin = time.perf_counter()
        found = _answer(["-m", "q3edge", "eval", str(options.artifact), *reference])
        total = time.perf_counter() - begin
        assert found["timing"]["tokens"] == by_pass[0]["tokens"]
        passes = sum(one["seconds"] for one in by_pass)
        ratios.append(total / passes)
        print(
            f"{by_pass[0]['tokens']} tokens: float {by_pass[0]['seconds']:.1f} s, "
            f"quantized {by_pass[1]['seconds']:.1f} s, eval from start to end {total:.1f} s: {ratios[-1]:.2f}"
        )
    print(f"median {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def _answer(arguments: Sequence[str]) -> Any:
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
