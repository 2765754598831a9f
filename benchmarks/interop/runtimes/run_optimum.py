"""The folder in optimum-onnx, as ORTModelForCausalLM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from contract import Messages, run
from numpy.typing import NDArray
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer


class Optimum:
    """Its model behind transformers' `generate`, and transformers' tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.version = f"{version('optimum-onnx')}, transformers {version('transformers')}"
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = ORTModelForCausalLM.from_pretrained(folder)
        # It takes hidden_size / num_attention_heads for the width of a head, which Qwen3 gives by itself.
        self._model.embed_size_per_head = self._model.config.head_dim

    def answer(self, ids: list[int], new: int, stops: Sequence[int]) -> list[int]:
        """Its own end tokens stop it."""
        given = torch.tensor([ids])
        found = self._model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False,
            temperature=None, top_k=None, top_p=None,
        )  # fmt: skip
        return [int(token) for token in found[0, len(ids) :]]

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Of one pass over `ids`."""
        given = torch.tensor([ids])
        positions = torch.arange(len(ids))[None]
        with torch.inference_mode():
            found = self._model(input_ids=given, attention_mask=torch.ones_like(given), position_ids=positions)
        return found.logits[0].numpy()

    def encode(self, messages: Messages) -> list[int]:
        """By transformers' AutoTokenizer."""
        found = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True)
        return [int(token) for token in found]


if __name__ == "__main__":
    run(Optimum)
