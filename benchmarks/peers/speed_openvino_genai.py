"""OpenVINO GenAI's LLMPipeline on the CPU: optimum-intel's export with weights rounded to nearest, all else default."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from speed_contract import Times, Together, Variant, main


class _Clock(genai.StreamerBase):
    """When each token came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, token: int | list[int]) -> genai.StreamingStatus:
        """Called with one token, or several at once."""
        self.times += [time.perf_counter()] * (len(token) if isinstance(token, list) else 1)
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is left to do."""


class OpenVino:
    """A pipeline, which owns its loop and its context; the tokenizer is part of it."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._pipeline = genai.LLMPipeline(folder, "CPU", INFERENCE_NUM_THREADS=threads)

    def run(self, prompt: Sequence[int], new: int) -> Times:
        """One call; its streamer tells when a token came."""
        settings = genai.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = new + 1, True, False
        ids = np.array([prompt], np.int64)
        clock = _Clock()
        begin = time.perf_counter()
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        self._pipeline.generate(inputs, settings, clock)
        if len(clock.times) != new + 1:
            raise SystemExit(f"{len(clock.times)} tokens instead of {new + 1}")
        return Times(clock.times[0] - begin, clock.times[-1] - clock.times[0])


class Batching:
    """The pipeline that batches continuously, with all keys and values in 4 GB."""

    def __init__(self, folder: Path, threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 4
        self._pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def run(self, prompt: Sequence[int], new: int) -> Times:
        """One request; the time to its first token is not told, and counts as decoding."""
        return Times(0.0, self.run_together([prompt], new + 1).seconds)

    def run_together(self, prompts: Sequence[Sequence[int]], new: int) -> Together:
        """One call."""
        settings = genai.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = new, True, False
        begin = time.perf_counter()
        found = self._pipeline.generate(
            [ov.Tensor(np.array([p], np.int64)) for p in prompts], [settings] * len(prompts)
        )
        seconds = time.perf_counter() - begin
        if any(len(each.m_generation_ids[0]) != new for each in found):
            raise SystemExit("an answer has another number of tokens")
        return Together(seconds)


def convert(checkpoint: Path, folder: Path, bits: int, group: int) -> None:
    """As `optimum-cli export openvino` does; the scales of int8 are per row."""
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    grouped = {"sym": False, "ratio": 1.0, "group_size": group} if bits == 4 else {}
    rounding = OVWeightQuantizationConfig(bits=bits, **grouped)
    model = OVModelForCausalLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=rounding, local_files_only=True
    )
    model.save_pretrained(folder)
    tokenizer, detokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(checkpoint), with_detokenizer=True)
    ov.save_model(tokenizer, folder / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, folder / "openvino_detokenizer.xml")


def _variant(bits: int, group: int, note: str, engine: type[OpenVino | Batching] = OpenVino) -> Variant:
    return Variant(partial(convert, bits=bits, group=group), engine, ["openvino_model.*"], note)


if __name__ == "__main__":
    main(
        "openvino-genai",
        {
            "int4 g128": _variant(4, 128, "asymmetric, its default; keys and values 8-bit, its default"),
            "int4 g32": _variant(4, 32, "asymmetric; keys and values 8-bit, its default"),
            "int4 g128 batching": _variant(4, 128, "asymmetric; continuous batching, its default settings", Batching),
            "int8": _variant(8, -1, "asymmetric per row, its default; keys and values 8-bit, its default"),
        },
    )
