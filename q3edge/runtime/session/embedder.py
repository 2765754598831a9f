"""`Embedder`: the network of an embedding artifact on onnxruntime. Token ids in, vectors of length 1 out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING
from q3edge.artifact import MODEL_FILE
from q3edge.errors import InputError
from q3edge.machine.cpu import default_threads
from q3edge.runtime.padding import right_padded
from q3edge.runtime.session.loader import CheckedGraph, open_graph
from q3edge.runtime.session.network import failed_run, open_session


class Embedder:
    """Loaded network of an exported embedding model. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        exact_activations: bool = False,
        kernels: str | None = None,
        checked: CheckedGraph | None = None,
    ) -> None:
        """Check and load `folder`; arguments are those of `Decoder`.

        InputError: a file is missing, changed or unlisted in the manifest, it is a language model, or onnxruntime
        cannot load it.
        """
        checked = checked or open_graph(folder, "embedding")
        self.manifest = checked.manifest
        self.config = Qwen3Config.load(folder)
        self.threads = threads or default_threads()
        self._path = folder / MODEL_FILE
        opened = open_session(
            folder,
            checked,
            self._path.read_bytes,
            self.threads,
            exact_activations=exact_activations,
            kernels=kernels,
            keep=True,
        )
        self._session, self._weights, self.kernels = opened.session, opened.weights, opened.kernels
        names = [node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())]
        if sorted(names) != sorted((INPUT_IDS, ATTENTION_MASK, SENTENCE_EMBEDDING)):
            found = ", ".join(names[:4])
            raise InputError(
                f"{self._path}: inputs or outputs differ from an embedding model's ({found}); export again"
            )

    def forward(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Compute the vectors float32 [B, H] of B texts, at least one, each of 1 token or more, in one pass.

        Shorter ones are padded to the longest, which is at most the model's context. InputError: the graph fails while
        it runs. ResourceError: memory ran out.
        """
        lengths = np.array([len(ids) for ids in texts])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        feed = {INPUT_IDS: right_padded(texts), ATTENTION_MASK: mask}
        try:
            found = self._session.run([SENTENCE_EMBEDDING], feed)[0]
        except RuntimeError as error:  # all that onnxruntime raises there
            raise failed_run(self._path, error) from error
        vectors: NDArray[np.float32] = found
        return vectors
