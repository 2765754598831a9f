"""Common formats that q3edge does not read: each is recognised and refused with its name and what to do.

A future reader of one of them replaces its entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NoReturn

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact import MANIFEST_FILE, MODEL_FILE
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, quantized_already, stated_config
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object

ADAPTER_CONFIG_FILE = "adapter_config.json"
_ORIGINAL = "start from the original model's folder or hub id, such as Qwen/Qwen3-0.6B"


def _is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" if path.is_file() else _only(path, "*.gguf")


def _refuse_gguf(path: Path) -> NoReturn:
    raise InputError(f"{path}: GGUF, the format of llama.cpp, which q3edge does not read; {_ORIGINAL}")


def _is_adapter(path: Path) -> bool:
    return (path / ADAPTER_CONFIG_FILE).is_file()


def _refuse_adapter(path: Path) -> NoReturn:
    base = (
        read_json_object(path / ADAPTER_CONFIG_FILE).get("base_model_name_or_path") or "a model that it does not name"
    )
    raise InputError(
        f"{path}: an adapter (LoRA) for {base}, not a whole model; merge it first: in peft, "
        "AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW_FOLDER)"
    )


def _is_artifact(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file() and (path / MODEL_FILE).is_file()


def _refuse_artifact(path: Path) -> NoReturn:
    raise InputError(
        f"{path}: an ONNX model that q3edge built already; run it with `q3edge run {path} PROMPT`, or give the model "
        "that it was built from"
    )


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx" if path.is_file() else _only(path, "*.onnx") or _only(path, "onnx/*.onnx")


def _refuse_onnx(path: Path) -> NoReturn:
    raise InputError(f"{path}: an ONNX model of another tool, expected safetensors weights; {_ORIGINAL}")


def _is_mlx(path: Path) -> bool:
    """MLX has the settings as `quantization`, newer versions once more as `quantization_config`, without a method."""
    settings = stated_config(path).get("quantization")
    return isinstance(settings, Mapping) and "quant_method" not in settings


def _refuse_mlx(path: Path) -> NoReturn:
    bits = stated_config(path)["quantization"].get("bits")
    raise quantized_already(f"{path / CONFIG_FILE}: quantization (MLX, {bits} bits)")


def _is_quantized(path: Path) -> bool:
    return quantization_method(path) is not None


def _refuse_quantized(path: Path) -> NoReturn:
    raise quantized_already(f"{path / CONFIG_FILE}: quantization_config ({quantization_method(path)})")


def _is_pickle(path: Path) -> bool:
    return _only(path, "pytorch_model*.bin")


def _refuse_pickle(path: Path) -> NoReturn:
    raise InputError(
        f"{path}: only pytorch_model.bin, a pickle that can run code; convert it to safetensors where you trust "
        "it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) in transformers"
    )


def _only(folder: Path, pattern: str) -> bool:
    """Tell whether the folder has files of `pattern`, in small or capital letters, and no safetensors."""
    inside, _, name = pattern.rpartition("/")
    found = any(fnmatchcase(file.name.lower(), name) for file in (folder / inside).glob("*"))
    return found and not any(folder.glob("*.safetensors*"))


UNSUPPORTED: Final[tuple[ModelFormat, ...]] = (
    ModelFormat("GGUF", _is_gguf, _refuse_gguf),
    ModelFormat("adapter", _is_adapter, _refuse_adapter),
    ModelFormat("q3edge ONNX", _is_artifact, _refuse_artifact),
    ModelFormat("ONNX", _is_onnx, _refuse_onnx),
    ModelFormat("MLX", _is_mlx, _refuse_mlx),
    ModelFormat("quantized", _is_quantized, _refuse_quantized),
    ModelFormat("pickle", _is_pickle, _refuse_pickle),
)
