"""The public function that opens a finished model: load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from q3edge.library.arguments import public
from q3edge.library.requests import PathLike, artifact_at

if TYPE_CHECKING:
    from q3edge.runtime.model import Model


@public()
def load(
    path_or_id: PathLike, *, threads: int | None = None, speculate: bool = False, draft: PathLike | None = None
) -> Model:
    """Open the ONNX model in the folder `path_or_id`, or with that id on the hub; a context manager.

    Needs no torch. threads: of onnxruntime (None: the physical cores at hand). speculate: take draft tokens from
    repetitions in the text so far; draft: folder of a smaller model that proposes them instead. Either makes answers
    faster, and the same but for near ties. Raises InputError if a file is missing or unfit.
    """
    from q3edge.runtime.model import Model

    small = None if draft is None else artifact_at(draft)
    return Model.open(artifact_at(path_or_id), threads=threads, speculate=speculate, draft=small)
