"""llama.cpp through llama-cpp-python's bindings of `llama_decode`; its own quantizer, no importance matrix.

The Python class above the bindings copies the logits of every token; here they are read where they lie, and only of
the last token of each batch, which is what `llama_batch_get_one` asks for. The build is what `pip install` makes on
this machine: optimized, native instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import llama_cpp
import numpy as np
from speed_contract import StepEngine, Variant, main

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

    def start(self, capacity: int) -> None:
        """A new context, which takes its memory at once."""
        if self._context:
            llama_cpp.llama_free(self._context)
        self._settings.n_ctx = capacity
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
