"""Checkpoints in torch's own files, `pytorch_model.bin`, one or in shards: floats, and nothing pickled is run.

torch.load(weights_only=True) builds nothing but tensors and plain containers (torch's notes on serialization); with
mmap=True the values stay in the file until they are read.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.model_format import ModelFormat, has_safetensors
from q3edge.checkpoint.safetensors.file import row_range
from q3edge.checkpoint.shards import FileKind, Shards
from q3edge.checkpoint.tensor_files import TensorFiles
from q3edge.errors import InputError, unreadable
from q3edge.storage.regular_files import check_regular

if TYPE_CHECKING:
    import torch

_DTYPES: Final[Mapping[str, str]] = {  # torch's names -> those of safetensors
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8", "uint8": "U8",
    "int32": "I32", "int64": "I64", "bool": "BOOL",
}  # fmt: skip
_FLOATS: Final = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]


class PickledFile:
    """An open file of torch.save. InputError at construction: anything but a flat mapping of tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = _load(path)
        self.size = path.stat().st_size
        self.entries = {name: _Entry(_dtype(t), tuple(t.shape)) for name, t in self._tensors.items()}

    def close(self) -> None:
        """Let go of the tensors, and of the file with the last of them."""
        self._tensors = {}

    def divide(self, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
        """Replace a tensor by its `parts`, name -> shape, that lie in it one after another."""
        flat, start = self._tensors.pop(name).reshape(-1), 0
        dtype = self.entries.pop(name).dtype
        for part, shape in parts.items():
            self._tensors[part] = flat[start : start + math.prod(shape)].view(shape)
            self.entries[part] = _Entry(dtype, shape)
            start += math.prod(shape)

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """Read a range of rows (of the first dimension) in the stored dtype; BF16 as its bits, uint16."""
        import torch

        tensor = self._part(name, rows)
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
        values: NDArray[Any] = tensor.contiguous().numpy()
        return values

    def read_float(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a BF16, F16 or F32 tensor, or a range of its rows, as float32.

        InputError: another dtype, or NaN or infinite values (the tensor and how many of the values read).
        """
        if self.entries[name].dtype not in _FLOATS:
            dtype = self.entries[name].dtype
            raise InputError(f"{self.path} ({name}): dtype {dtype}; expected one of {', '.join(_FLOATS)}")
        values: NDArray[np.float32] = self._part(name, rows).float().contiguous().numpy()
        if not_finite := values.size - int(np.count_nonzero(np.isfinite(values))):
            raise InputError(
                f"{self.path} ({name}): {not_finite} of {values.size} values are NaN or infinite; "
                "the checkpoint is damaged, download it again"
            )
        return values

    def _part(self, name: str, rows: slice | None) -> torch.Tensor:
        if not self._tensors:
            raise ValueError(f"{self.path}: read of a closed file")
        tensor = self._tensors[name]
        return tensor if rows is None else tensor[row_range(rows, len(tensor))]


class PickledCheckpoint(Checkpoint):
    """Checkpoint in pytorch_model.bin files."""

    def _open_files(self) -> TensorFiles:
        return Shards(self._folder, _PICKLES)


def _load(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        check_regular(path)
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes and types that are checked here
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise unreadable(f"{path}: cannot be read ({error.strerror}); expected a file of torch.save", error) from None
    except InputError:
        raise
    except UnpicklingError:
        raise InputError(
            f"{path}: holds other things than tensors, which could run code when it is opened; refused, get the model "
            "as safetensors"
        ) from None
    except Exception as error:  # whatever a damaged archive makes of torch's reader
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        raise InputError(f"{path}: not a file of torch.save, or a damaged one ({reason}); download it again") from None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: holds a {type(found).__name__}; expected tensors by their names")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(f"{path} ({name!r}): is a {type(tensor).__name__}; expected tensors by their names alone")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise InputError(f"{path} ({name}): a sparse, quantized or empty (meta) tensor; expected a plain one")
    return found


def _check_archive(path: Path) -> None:
    """Refuse an archive that could grow while it is read, and files from before torch 1.6, which are none."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except zipfile.BadZipFile:
        raise InputError(
            f"{path}: not a file of torch.save, truncated, or older than torch 1.6; download it again, or get the "
            "model as safetensors"
        ) from None
    if packed:
        raise InputError(f"{path} ({packed[0]}): compressed, as torch.save never writes it; refused")


def _dtype(tensor: torch.Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return _DTYPES.get(name, name)


def _recognises(path: Path) -> bool:
    if not path.is_dir() or has_safetensors(path):
        return False
    return any(fnmatchcase(file.name.lower(), "pytorch_model*.bin*") for file in path.iterdir())


_PICKLES = FileKind("pickled", "pytorch_model.bin", "pytorch_model.bin.index.json", ".bin", PickledFile)
PICKLED: Final = ModelFormat("float weights in pytorch_model.bin", _recognises, PickledCheckpoint.open)
