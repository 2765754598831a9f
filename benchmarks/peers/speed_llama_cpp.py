"""llama.cpp through llama-cpp-python's bindings of `llama_decode`; its own quantizer, no importance matrix.

The Python class above the bindings copies the logits of every token; here they are read where they lie, and only of
the last token of each batch, which is what `llama_batch_get_one` asks for. The build is what `pip install` makes on
this machine: optimized, native instructions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import llama_cpp
import numpy as np
from speed_contract import StepEngine, Together, Variant, main

_BATCH = 512
_MODEL = "model.gguf"


class LlamaCpp(StepEngine):
    """A GGUF file, and a context made anew for every prompt."""

    def __init__(self, folder: Path, threads: int, flash_attention: bool) -> None:
        llama_cpp.llama_backend_init()
        path = str(folder / _MODEL).encode()
        self._model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        if not self._model:
            raise SystemExit("llama_model_load_from_file gave no model")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._context = None
        self._settings = llama_cpp.llama_context_default_params()
        self._settings.n_batch = self._settings.n_ubatch = _BATCH
        self._settings.n_threads = self._settings.n_threads_batch = threads
        self._settings.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        print(llama_cpp.llama_print_system_info().decode())

    def start(self, capacity: int, sequences: int = 1) -> None:
        """A new context, which takes its memory at once: for so many sequences, which share the capacity."""
        if self._context:
            llama_cpp.llama_free(self._context)
        self._settings.n_ctx, self._settings.n_seq_max = capacity, sequences
        self._settings.kv_unified = sequences > 1
        self._context = llama_cpp.llama_init_from_model(self._model, self._settings)
        if not self._context:
            raise SystemExit("llama_init_from_model gave no context")

    def forward(self, tokens: Sequence[int]) -> int:
        """In batches of 512."""
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            ids = (llama_cpp.llama_token * len(part))(*part)  # the batch points to it
            batch = llama_cpp.llama_batch_get_one(ids, len(part))
            if code := llama_cpp.llama_decode(self._context, batch):
                raise SystemExit(f"llama_decode returned {code}")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())

    def run_together(self, prompts: Sequence[Sequence[int]], new: int) -> Together:
        """Sequences of one context: prompts in batches of up to 512 tokens of any of them, then a token of each."""
        self.start(sum(map(len, prompts)) + len(prompts) * new, len(prompts))
        begin = time.perf_counter()
        tokens = [(token, at, row) for row, prompt in enumerate(prompts) for at, token in enumerate(prompt)]
        last = {(len(prompt) - 1, row) for row, prompt in enumerate(prompts)}
        newest: dict[int, int] = {}
        first: list[float] = []
        for start in range(0, len(tokens), _BATCH):
            found = self._pass([(*each, each[1:] in last) for each in tokens[start : start + _BATCH]])
            newest |= found
            first += [time.perf_counter() - begin] * len(found)
        for step in range(new - 1):
            newest = self._pass([(token, len(prompts[row]) + step, row, True) for row, token in newest.items()])
        return Together(time.perf_counter() - begin, float(np.median(first)))

    def _pass(self, tokens: Sequence[tuple[int, int, int, bool]]) -> dict[int, int]:
        """One batch of (token, position, sequence, whether its logits count); the likeliest next token by sequence."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for place, (token, position, row, counts) in enumerate(tokens):
                batch.token[place], batch.pos[place], batch.logits[place] = token, position, counts
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            if code := llama_cpp.llama_decode(self._context, batch):
                raise SystemExit(f"llama_decode returned {code}")
            return {
                row: int(
                    np.ctypeslib.as_array(
                        llama_cpp.llama_get_logits_ith(self._context, place), (self._vocabulary,)
                    ).argmax()
                )
                for place, (_, _, row, counts) in enumerate(tokens)
                if counts
            }
        finally:
            llama_cpp.llama_batch_free(batch)


def convert(checkpoint: Path, folder: Path, ftype: str) -> None:
    """A float GGUF, quantized and removed."""
    from gguf_model import quantize, write_float  # imports torch, which the measured process must not

    source = folder / "float.gguf"
    write_float(checkpoint, source)
    quantize(source, folder / _MODEL, ftype)
    source.unlink()


def _variant(ftype: str, flash_attention: bool = True) -> Variant:
    note = "flash attention, its default" if flash_attention else "no flash attention"
    return Variant(partial(convert, ftype=ftype), partial(LlamaCpp, flash_attention=flash_attention), [_MODEL], note)


if __name__ == "__main__":
    main(
        "llama-cpp-python",
        {
            "Q4_0": _variant("Q4_0"),
            "Q4_0 no-flash": _variant("Q4_0", flash_attention=False),
            "Q4_K_M": _variant("Q4_K_M"),
            "Q8_0": _variant("Q8_0"),
        },
    )
