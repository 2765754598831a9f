"""The folder in onnxruntime-genai, as its genai_config.json says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from contract import Messages, run
from numpy.typing import NDArray


class GenAI:
    """Its model, tokenizer and loop over tokens."""

    def __init__(self, folder: Path) -> None:
        self.version = og.__version__
        self._model = og.Model(str(folder))
        self._tokenizer = og.Tokenizer(self._model)

    def _generator(self, ids: list[int], length: int) -> og.Generator:
        params = og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=length)
        generator = og.Generator(self._model, params)
        generator.append_tokens(np.array(ids, np.int32))
        return generator

    def answer(self, ids: list[int], new: int, stops: Sequence[int]) -> list[int]:
        """Its own end tokens stop it."""
        generator = self._generator(ids, len(ids) + new)
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(ids) :]]

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Of one pass over `ids`."""
        return np.array(self._generator(ids, len(ids) + 1).get_output("logits"), np.float32)[0]

    def encode(self, messages: Messages) -> list[int]:
        """By tokenizer.json and the template beside it."""
        text = self._tokenizer.apply_chat_template(json.dumps(list(messages)), add_generation_prompt=True)
        return [int(token) for token in self._tokenizer.encode(text)]


if __name__ == "__main__":
    run(GenAI)
