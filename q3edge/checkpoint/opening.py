"""Opening of models: a path or hub id -> the reader of its format.

A new input format is a file with a `ModelFormat` and an entry in `OTHER_TOOLS`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import MANIFEST_FILE, MODEL_FILE
from q3edge.checkpoint.compressed_tensors.reader import COMPRESSED_TENSORS
from q3edge.checkpoint.float_checkpoint import FLOAT, Checkpoint
from q3edge.checkpoint.hub import resolve_model
from q3edge.checkpoint.model_format import ModelFormat, quantized_already
from q3edge.checkpoint.other_tools.compressed_tensors import COMPRESSED_TENSORS_OF_OTHERS
from q3edge.checkpoint.other_tools.fp8 import FP8
from q3edge.checkpoint.other_tools.gptq import GPTQ
from q3edge.checkpoint.pickled import PICKLED
from q3edge.checkpoint.source import ModelFolder
from q3edge.checkpoint.unsupported import UNSUPPORTED
from q3edge.errors import InputError
from q3edge.plain_line import typed

_QUANTIZED: Final[tuple[ModelFormat, ...]] = (COMPRESSED_TENSORS,)
# Quantized by others, opened like float checkpoints.
OTHER_TOOLS: Final[tuple[ModelFormat, ...]] = (GPTQ, FP8, COMPRESSED_TENSORS_OF_OTHERS)
FORMATS: Final[tuple[ModelFormat, ...]] = (
    *_QUANTIZED,
    *OTHER_TOOLS,
    *UNSUPPORTED,
    PICKLED,
    FLOAT,
)  # the first that recognises a path reads it


def open_model(model: str | Path) -> ModelFolder:
    """Open MODEL, a folder or hub id, float or quantized; use as a context manager.

    InputError: it cannot be found, is incomplete, or is of a format that q3edge does not read, which is named.
    """
    path = resolve_model(model)
    return _format_of(path).open(path)


def open_float_model(model: str | Path) -> Checkpoint:
    """Open MODEL, a folder or hub id, as floats, also where another tool quantized it; InputError if q3edge did."""
    path = resolve_model(model)
    found = _format_of(path)
    if found in _QUANTIZED:
        if (path / MANIFEST_FILE).exists():
            raise InputError(
                f"{path}: quantized already, by q3edge; `q3edge export {typed(path)} -o DIR` makes an ONNX model of "
                "it, or start from the original model"
            )
        raise quantized_already(f"{path}: {found.label}")
    opened = found.open(path)
    assert isinstance(opened, Checkpoint)
    return opened


def open_quantized_model(model: str | Path) -> ModelFolder:
    """Open MODEL, a folder or hub id, as a quantized checkpoint; InputError if its weights are float, or no model."""
    path = resolve_model(model)
    found = _format_of(path)
    if found in OTHER_TOOLS:
        found.open(path).close()  # its own error where it is damaged
        raise InputError(
            f"{path}: quantized by another tool ({found.label}); `q3edge build {typed(path)} -o DIR` makes an ONNX "
            "model of it, and `q3edge quantize` a checkpoint of q3edge's"
        )
    if found in (FLOAT, PICKLED):
        found.open(path).close()  # whatever no other format recognises comes here: its own error if it is no model
        raise InputError(f"{path}: a float checkpoint; expected a quantized one, run `q3edge quantize` first")
    return found.open(path)


def not_an_artifact(path: Path) -> InputError:
    """Make the error for a path that should be an ONNX model of q3edge's and is none: what it is, and the command."""
    if not os.path.exists(path):
        return InputError(f"{path}: not found; expected a folder written by `q3edge export` or `q3edge build`")
    if (path / MODEL_FILE).exists():
        return InputError(f"{path}: has no {MANIFEST_FILE}; expected a folder that q3edge wrote, copy all of it")
    try:
        found = _format_of(path)
        if found in UNSUPPORTED:
            found.open(path)
    except InputError as error:
        return error
    if found in _QUANTIZED:
        return InputError(
            f"{path}: holds a quantized checkpoint; run `q3edge export` on it first: q3edge export {typed(path)} -o DIR"
        )
    if (path / CONFIG_FILE).exists():
        return InputError(f"{path}: holds a checkpoint, not an ONNX model; make one: q3edge build {typed(path)} -o DIR")
    inside = sorted(str(manifest.parent) for manifest in path.glob(f"*/{MANIFEST_FILE}"))[:3]
    if inside:
        return InputError(f"{path}: holds several models; give one of them, such as {', '.join(inside)}")
    return InputError(f"{path}: has no {MANIFEST_FILE}; expected a folder that q3edge wrote")


def _format_of(path: Path) -> ModelFormat:
    found = next((known for known in FORMATS if known.recognises(path)), None)
    if found is None:
        raise InputError(f"{path}: is a file; expected the model's folder, or a hub id such as Qwen/Qwen3-0.6B")
    return found
