"""The inputs that a decoder's graph takes, for runtimes that are given model.onnx and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class PastAndPresent:
    """Keys and values of a sequence: what a pass gives as present goes into the next one as past.

    A float32 cache grows by what is new. An int8 one is made as long as the sequence will be, and stays so.
    """

    def __init__(self, folder: Path, cache_type: str, capacity: int) -> None:
        """Make an empty cache; `cache_type`: float32 or int8."""
        config = json.loads((folder / "config.json").read_text())
        length = capacity if cache_type == "int8" else 0
        shape = (1, config["num_key_value_heads"], length, config["head_dim"])
        parts = [f"{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in ("key", "value")]
        self._parts, self._tokens = parts, 0
        self._past: Arrays = {f"past_key_values.{part}": np.zeros(shape, cache_type) for part in parts}

    def feed(self, ids: list[int]) -> Arrays:
        """Inputs of a pass over `ids`."""
        self._tokens += len(ids)
        mask = np.ones((1, self._tokens), np.int64)
        return {"input_ids": np.array([ids], np.int64), "attention_mask": mask, **self._past}

    def take(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Keep a pass's keys and values; returns its logits float32 [S, V]."""
        self._past = {f"past_key_values.{part}": outputs[f"present.{part}"] for part in self._parts}
        return outputs["logits"][0]
