"""MNN: an int4 model of llmexport, and `Llm.forward` step by step; `Llm.generate` of its Python package stops at once.

Everything else is as the export's config.json has it, int8 activations among it ("memory": "low").
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import MNN.llm
import numpy as np
from speed_contract import StepEngine, Variant, main


class Mnn(StepEngine):
    """A model, which owns its context; the tokenizer is part of it."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._model = MNN.llm.create(str(folder / "config.json"))
        self._model.set_config({"thread_num": threads, "reuse_kv": False})
        self._model.load()

    def start(self, capacity: int) -> None:
        """Forget the context; it grows."""
        self._model.reset()

    def forward(self, tokens: Sequence[int]) -> int:
        """Logits of the last position."""
        return int(np.asarray(self._model.forward(list(tokens)).read()).argmax())


def convert(checkpoint: Path, folder: Path, group: int) -> None:
    """With the module behind its command, which does not find its own parts where it is installed."""
    # The converter's logger would have whichever `pip` is found first install a package, and then send this machine's
    # id and the model's sizes to a server. Without it, the converter goes on.
    sys.modules["MNN.tools.utils.log"] = None
    sys.path.insert(0, str(distribution("llmexport").locate_file("llmexport")))
    import llmexport  # the module in the package of that name

    os.chdir(folder)  # it leaves a log where it is started
    options = {"path": checkpoint, "dst_path": folder, "export": "mnn", "quant_bit": 4, "quant_block": group}
    sys.argv = ["llmexport", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    llmexport.main()
    if not (folder / "llm.mnn.weight").exists():
        raise SystemExit("llmexport wrote no llm.mnn.weight")


def _variant(group: int, note: str) -> Variant:
    return Variant(partial(convert, group=group), Mnn, ["llm.mnn", "llm.mnn.weight", "embeddings_*"], note)


if __name__ == "__main__":
    main("MNN", {"int4 g64": _variant(64, "asymmetric, its default"), "int4 g32": _variant(32, "asymmetric")})
