"""`ModelFormat`: recognition and opening of one format of models. `q3edge.checkpoint.opening` lists them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q3edge.architecture.config import CONFIG_FILE
from q3edge.checkpoint.source import ModelFolder
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object

QUANTIZATION_FIELDS: Final = ("quantization_config", "compression_config", "quantization")  # of config.json


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """One format of models.

    label: its name in errors.
    recognises: tells whether a file or folder is of this format, by file names and config.json alone.
    open: reads and checks the headers; InputError where the model is incomplete, or the format is not supported.
    """

    label: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], ModelFolder]


def stated_config(path: Path) -> Mapping[str, Any]:
    """Read config.json of a folder; empty if it cannot be read, which the format's reader reports."""
    try:
        return read_json_object(path / CONFIG_FILE)
    except InputError:
        return {}


def has_safetensors(folder: Path) -> bool:
    """Tell whether a folder has safetensors files, or an index of them, that are a model's and not an adapter's."""
    return any(not file.name.startswith("adapter_model") for file in folder.glob("*.safetensors*"))


def quantization_settings(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of another tool's quantization in the fields of config.json; empty if there are none."""
    settings = raw.get("quantization_config") or raw.get("compression_config")
    return settings if isinstance(settings, Mapping) else {}


def quantization_method(path: Path) -> str | None:
    """Quantization method that config.json names, such as "gptq"; None: it has no settings of one."""
    raw = stated_config(path)
    settings = raw.get("quantization_config") or raw.get("compression_config")
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
    return "of a method that it does not name" if method is None else str(method)


def quantized_already(where: str) -> InputError:
    """Make the error for quantized weights where float ones are needed; `where`: file and what in it says so."""
    return InputError(
        f"{where}: the checkpoint is quantized already; expected float weights, start from the original model"
    )
