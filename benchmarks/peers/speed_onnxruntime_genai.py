"""onnxruntime-genai: an int4 model of its builder, and its own loop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import onnxruntime_genai as og
from speed_contract import Times, Variant, main


class Genai:
    """A model; a Generator for every prompt."""

    def __init__(self, folder: Path, threads: int) -> None:
        config = og.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = og.Model(config)

    def run(self, prompt: Sequence[int], new: int) -> Times:
        """The first `generate_next_token` chooses from the prompt's logits; each later one runs the model."""
        params = og.GeneratorParams(self._model)
        length = len(prompt) + 1 + new
        params.set_search_options(max_length=length, min_length=length, do_sample=False)  # min_length: no end token
        generator = og.Generator(self._model, params)
        begin = time.perf_counter()
        generator.append_tokens(list(prompt))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(new):
            generator.generate_next_token()
        end = time.perf_counter()
        if (found := len(generator.get_sequence(0))) != length:
            raise SystemExit(f"{found} tokens instead of {length}")
        return Times(first - begin, end - first)


def convert(checkpoint: Path, folder: Path, options: Sequence[str]) -> None:
    """With the command its documentation gives."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(folder)]
    command += ["-p", "int4", "-e", "cpu", "-c", str(folder / "cache")]
    if code := subprocess.run([*command, *(["--extra_options", *options] if options else [])]).returncode:
        sys.exit(code)  # it has said why


def _variant(note: str, *options: str) -> Variant:
    return Variant(partial(convert, options=options), Genai, ["model.onnx*"], note)


if __name__ == "__main__":
    main(
        "onnxruntime-genai",
        {
            "int4": _variant("all defaults: symmetric g32, int8 activations, logits of the whole prompt"),
            "int4 last-logits": _variant(
                "as int4, with prune_lm_head=true: logits of the last position", "prune_lm_head=true"
            ),
        },
    )
