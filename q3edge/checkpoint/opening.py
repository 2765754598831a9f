"""Opening of models: a path or hub id -> the reader of its format.

A new input format is a file with a `ModelFormat` and an entry in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from q3edge.checkpoint.compressed_tensors.reader import COMPRESSED_TENSORS
from q3edge.checkpoint.float_checkpoint import FLOAT, Checkpoint
from q3edge.checkpoint.hub import resolve_model
from q3edge.checkpoint.model_format import ModelFormat, quantized_already
from q3edge.checkpoint.source import ModelFolder
from q3edge.checkpoint.unsupported import UNSUPPORTED
from q3edge.errors import InputError

_QUANTIZED: Final[tuple[ModelFormat, ...]] = (COMPRESSED_TENSORS,)
FORMATS: Final[tuple[ModelFormat, ...]] = (
    *_QUANTIZED,
    *UNSUPPORTED,
    FLOAT,
)  # the first that recognises a path reads it


def open_model(model: str | Path) -> ModelFolder:
    """Open MODEL, a folder or hub id, float or quantized; use as a context manager.

    InputError: it cannot be found, is incomplete, or is of a format that q3edge does not read, which is named.
    """
    path = resolve_model(model)
    return _format_of(path).open(path)


def open_float_model(model: str | Path) -> Checkpoint:
    """Open MODEL, a folder or hub id, as a float checkpoint; InputError if its weights are quantized."""
    path = resolve_model(model)
    found = _format_of(path)
    if found in _QUANTIZED:
        raise quantized_already(f"{path}: {found.label}")
    opened = found.open(path)
    assert isinstance(opened, Checkpoint)
    return opened


def open_quantized_model(model: str | Path) -> ModelFolder:
    """Open MODEL, a folder or hub id, as a quantized checkpoint; InputError if its weights are float, or no model."""
    path = resolve_model(model)
    found = _format_of(path)
    if found is FLOAT:
        found.open(path).close()  # whatever no other format recognises comes here: its own error if it is no model
        raise InputError(f"{path}: a float checkpoint; expected a quantized one, run `q3edge quantize` first")
    return found.open(path)


def _format_of(path: Path) -> ModelFormat:
    found = next((known for known in FORMATS if known.recognises(path)), None)
    if found is None:
        raise InputError(f"{path}: is a file; expected a model folder or a hub id such as Qwen/Qwen3-0.6B")
    return found
