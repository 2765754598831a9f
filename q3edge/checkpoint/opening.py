"""Opening of models: a path or hub id -> the reader of its format.

A new input format is a file with a `ModelFormat` and an entry in `OTHER_TOOLS`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import MANIFEST_FILE, MODEL_FILE
from q3edge.checkpoint.adapter import Adapter, adapter_files, base_model
from q3edge.checkpoint.compressed_tensors.reader import COMPRESSED_TENSORS
from q3edge.checkpoint.float_checkpoint import FLOAT, Checkpoint
from q3edge.checkpoint.hub import parts_of, resolve_model
from q3edge.checkpoint.model_format import ModelFormat, has_safetensors, quantized_already
from q3edge.checkpoint.other_tools.auto_round import AUTO_ROUND
from q3edge.checkpoint.other_tools.awq import AWQ
from q3edge.checkpoint.other_tools.bitsandbytes import BITSANDBYTES
from q3edge.checkpoint.other_tools.compressed_tensors import COMPRESSED_TENSORS_OF_OTHERS
from q3edge.checkpoint.other_tools.fp8 import FP8
from q3edge.checkpoint.other_tools.gguf import GGUF
from q3edge.checkpoint.other_tools.gptq import GPTQ
from q3edge.checkpoint.other_tools.mlx import MLX
from q3edge.checkpoint.pickled import PICKLED
from q3edge.checkpoint.source import ModelFolder
from q3edge.checkpoint.unsupported import UNSUPPORTED
from q3edge.errors import InputError
from q3edge.plain_line import typed


def _is_adapter(path: Path) -> bool:
    """Tell whether a folder has an adapter and no model of its own, in whatever files."""
    if not path.is_dir() or not adapter_files(path):
        return False
    return not (has_safetensors(path) or PICKLED.recognises(path) or GGUF.recognises(path))


def _open_adapter(path: Path) -> Checkpoint:
    """Open the base model that an adapter names, with it merged in."""
    base = base_model(path)
    try:
        folder = resolve_model(base)
    except InputError as error:
        raise InputError(
            f"{path}: an adapter (LoRA) for {base}, which is not at hand ({error}); give BASE+ADAPTER, the folder or "
            "hub id of the base model in front"
        ) from None
    found = _format_of(folder)
    if found is ADAPTER:
        raise InputError(
            f"{path}: an adapter (LoRA) for {base}, which is an adapter too; merge that one first, in peft"
        )
    return _merged(found.open(folder), path)


def _merged(model: ModelFolder, adapter: Path) -> Checkpoint:
    """Merge the adapter in a folder into an open model, which is closed if it does not fit."""
    try:
        if not isinstance(model, Checkpoint):
            raise InputError(f"{model.folder}: quantized by q3edge; an adapter is merged into the original model")
        model.merge(Adapter(adapter, model.config))
    except BaseException:
        model.close()
        raise
    return model


ADAPTER: Final = ModelFormat("adapter", _is_adapter, _open_adapter)
_QUANTIZED: Final[tuple[ModelFormat, ...]] = (COMPRESSED_TENSORS,)
# Quantized by others, opened like float checkpoints.
OTHER_TOOLS: Final[tuple[ModelFormat, ...]] = (
    GGUF,
    GPTQ,
    AWQ,
    AUTO_ROUND,
    BITSANDBYTES,
    FP8,
    COMPRESSED_TENSORS_OF_OTHERS,
    MLX,
)
FORMATS: Final[tuple[ModelFormat, ...]] = (
    *_QUANTIZED,
    *OTHER_TOOLS,
    ADAPTER,
    *UNSUPPORTED,
    PICKLED,
    FLOAT,
)  # the first that recognises a path reads it


def open_model(model: str | Path) -> ModelFolder:
    """Open MODEL, a folder or hub id, float or quantized; use as a context manager.

    InputError: it cannot be found, is incomplete, or is of a format that q3edge does not read, which is named.
    """
    base, adapter = parts_of(model)
    path = resolve_model(base)
    found = _format_of(path)
    return found.open(path) if adapter is None else _merged(found.open(path), resolve_model(adapter))


def open_float_model(model: str | Path) -> Checkpoint:
    """Open MODEL, a folder or hub id, as floats, also where another tool quantized it; InputError if q3edge did.

    MODEL+ADAPTER, or the folder of an adapter (LoRA) alone, is the adapter's base model with it merged in.
    """
    base, adapter = parts_of(model)
    path = resolve_model(base)
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
    return opened if adapter is None else _merged(opened, resolve_model(adapter))


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
    if found in (FLOAT, PICKLED, ADAPTER):
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
    if found is GGUF:
        return InputError(
            f"{path}: GGUF, the format of llama.cpp, not an ONNX model; make one: q3edge build {typed(path)} -o DIR"
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
