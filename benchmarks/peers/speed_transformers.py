"""transformers on torch: the float checkpoint, and `torch.ao.quantization.quantize_dynamic` of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from speed_contract import StepEngine, Variant, link_files, main
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

_QUANTIZED = "model.pt"


class Transformers(StepEngine):
    """A model in eager mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model.eval()

    def start(self, capacity: int) -> None:
        """A cache that grows."""
        self._cache = DynamicCache(config=self._model.config)

    def forward(self, tokens: Sequence[int]) -> int:
        """Logits of the last position."""
        with torch.inference_mode():
            ids = torch.tensor([tokens])
            logits = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())


def load_float(folder: Path, threads: int, dtype: torch.dtype) -> Transformers:
    """The checkpoint in `dtype`."""
    torch.set_num_threads(threads)
    return Transformers(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype))


def quantize(checkpoint: Path, folder: Path) -> None:
    """Every linear layer to int8 per tensor, activations as they come; the embedding stays float."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    torch.save(torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8), folder / _QUANTIZED)


def load_quantized(folder: Path, threads: int) -> Transformers:
    """What `quantize` wrote."""
    torch.set_num_threads(threads)
    return Transformers(torch.load(folder / _QUANTIZED, weights_only=False))


def _float_variant(dtype: torch.dtype) -> Variant:
    return Variant(link_files, partial(load_float, dtype=dtype), ["*.safetensors"], "the checkpoint itself on disk")


if __name__ == "__main__":
    main(
        "transformers",
        {
            "bf16": _float_variant(torch.bfloat16),
            "fp32": _float_variant(torch.float32),
            "quantize_dynamic": Variant(
                quantize, load_quantized, [_QUANTIZED], "torch's int8 per tensor; embedding float32"
            ),
        },
    )
