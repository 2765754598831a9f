"""Common formats that q3edge does not read: each is recognised and refused with its name and what to do.

A future reader of one of them replaces its entry.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NoReturn

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import MANIFEST_FILE, MODEL_FILE
from q3edge.checkpoint.model_format import ModelFormat, has_safetensors, quantization_method, quantized_already
from q3edge.errors import InputError
from q3edge.plain_line import typed

_ORIGINAL = "start from the original model's folder or hub id, such as Qwen/Qwen3-0.6B"


def _is_artifact(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file() and (path / MODEL_FILE).is_file()


def _refuse_artifact(path: Path) -> NoReturn:
    raise InputError(
        f"{path}: an ONNX model that q3edge built already; run it with `q3edge run {typed(path)} PROMPT`, or give the "
        "model that it was built from"
    )


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx" if path.is_file() else _only(path, "*.onnx") or _only(path, "onnx/*.onnx")


def _refuse_onnx(path: Path) -> NoReturn:
    whole = next((folder for folder in list(path.absolute().parents)[:2] if _is_artifact(folder)), None)
    if whole is not None:
        raise InputError(f"{path}: part of an ONNX model that q3edge built; give its folder, {whole}")
    raise InputError(f"{path}: an ONNX model of another tool, which q3edge neither reads nor runs; {_ORIGINAL}")


def _is_quantized(path: Path) -> bool:
    return quantization_method(path) is not None


def _refuse_quantized(path: Path) -> NoReturn:
    raise quantized_already(f"{path / CONFIG_FILE}: quantization_config ({quantization_method(path)})")


def _only(folder: Path, pattern: str) -> bool:
    """Tell whether the folder has files of `pattern`, in small or capital letters, and no safetensors."""
    inside, _, name = pattern.rpartition("/")
    found = any(fnmatchcase(file.name.lower(), name) for file in (folder / inside).glob("*"))
    return found and not has_safetensors(folder)


UNSUPPORTED: Final[tuple[ModelFormat, ...]] = (
    ModelFormat("q3edge ONNX", _is_artifact, _refuse_artifact),
    ModelFormat("ONNX", _is_onnx, _refuse_onnx),
    ModelFormat("quantized", _is_quantized, _refuse_quantized),
)
