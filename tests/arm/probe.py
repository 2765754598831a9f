"""Program that runs on the emulated CPU: what artifacts compute there, as arrays and JSON.

Arguments: a file of token ids (.npy, int64 [1, S]), a folder for results, then artifact folders.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge import Model
from q3edge.machine import cpu
from q3edge.progress import Silent, report_to
from q3edge.runtime.session.decoder import Decoder

QUESTION = "What does a cub grow into?"


class Notes(Silent):
    """Listener that keeps the notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


def _logits(decoder: Decoder, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return decoder.forward(ids, decoder.new_cache(ids.shape[1]), keep=0)


def main() -> None:
    """Write NAME.npz with logits [1, S, V] of each artifact, and answers.json."""
    sys.executable = os.environ.get("Q3EDGE_EMULATED_PYTHON", sys.executable)
    ids, out = np.load(sys.argv[1]), Path(sys.argv[2])
    found: dict[str, object] = {"cpu": cpu.cpu_name(), "instruction_sets": cpu.instruction_sets()}
    notes = Notes()
    with report_to(notes):
        for folder in map(Path, sys.argv[3:]):
            with Model.open(folder, threads=1) as model:
                answer = model.chat(QUESTION, temperature=0, max_new_tokens=24, thinking=False).text
                kernel = _logits(model.decoder, ids)
            exact = _logits(Decoder(folder, threads=1, exact_activations=True), ids)
            np.savez(out / f"{folder.name}.npz", kernel=kernel, exact=exact)
            found[folder.name] = {"answer": answer, "notes": notes.texts}
            notes.texts = []
    (out / "answers.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
