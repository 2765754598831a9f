"""GGUF: the files of llama.cpp, with weights in blocks, configuration and tokenizer in metadata.

Q4_0, Q8_0 and those Q4_1 that have zero points are integer codes; the other types are read as floats, by the gguf
package where they are not trivial.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.tensors import EMBEDDING, tensor_shapes
from q3edge.artifact import Notice
from q3edge.artifact.side_files import SIDE_FILES, TOKENIZER_FILE
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.gguf.blocks import GROUP, halves, unpack_q4, unpack_q8
from q3edge.checkpoint.gguf.files import SUFFIX, GgufFiles, gguf_files
from q3edge.checkpoint.gguf.model_metadata import read_config
from q3edge.checkpoint.gguf.tensor_types import FLOATS
from q3edge.checkpoint.gguf.tokenizer_metadata import NoTokenizerError, read_generation_config, read_tokenizer
from q3edge.checkpoint.matrix import IntegerMatrix, Integers, Parts, StoredMatrix
from q3edge.checkpoint.model_format import ModelFormat, has_safetensors
from q3edge.checkpoint.tensor_files import Expected, TensorFiles
from q3edge.errors import InputError, ResourceError
from q3edge.machine.extras import install_line
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import UInt8Array

_WEIGHT = "weight"
_ROWS = 1024  # that are read at a time to learn whether a matrix has zero points


class GgufMatrix(StoredMatrix):
    """Matrix in blocks whose values are floats for q3edge."""

    def __init__(self, parts: Parts, shape: tuple[int, int], kind: str) -> None:
        super().__init__(parts, shape)
        self.kind, self.label = kind, f"GGUF {kind}"
        _dequantizer(kind)

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        return {_WEIGHT: ((self.kind,), self.shape)}

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        return f"{self.kind} has no codes that onnxruntime computes with"

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K], as the gguf package dequantizes them."""
        from gguf.quants import dequantize

        values: NDArray[np.float32] = dequantize(self.parts.read(_WEIGHT, rows), _dequantizer(self.kind))
        return np.asarray(values, np.float32).reshape(-1, self.shape[1])


class GgufIntegers(IntegerMatrix):
    """Matrix in blocks of 32 integer codes with a float16 scale: Q4_0 and Q8_0."""

    def __init__(self, parts: Parts, shape: tuple[int, int], kind: str) -> None:
        super().__init__(parts, shape, 8 if kind == "Q8_0" else 4, GROUP)
        self.kind, self.label = kind, f"GGUF {kind}"

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts."""
        return {_WEIGHT: ((self.kind,), self.shape)}

    def blocks(self, rows: slice) -> UInt8Array:
        """Read the blocks of rows start:stop: uint8 [n, K/32, bytes of a block]."""
        stored = self.parts.read(_WEIGHT, rows)
        return stored.reshape(len(stored), self.shape[1] // GROUP, -1)

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""
        blocks = self.blocks(rows)
        codes = unpack_q8(blocks) if self.kind == "Q8_0" else unpack_q4(blocks, 2)
        return Integers(codes, self._numbers(blocks, 0), None)

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array | None]:
        """Read scales and zero points of rows start:stop."""
        return self._numbers(self.blocks(rows), 0), None

    def _numbers(self, blocks: UInt8Array, place: int) -> NDArray[np.float32]:
        """The float16 number at byte `place` of each block as float32 [n, K/32]; InputError for NaN or infinity."""
        found = halves(blocks, place).astype(np.float32)
        if not np.isfinite(found).all():
            raise InputError(f"{self.parts.where(_WEIGHT)}: scales are NaN or infinite; the file is damaged")
        return found


class GgufOffsets(GgufIntegers):
    """Matrix in blocks of 4-bit codes with a float16 scale and the value of code 0: Q4_1.

    It has a scheme where each such value is, but for its rounding to float16, a zero point times the scale.
    """

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]: code * scale + value of code 0."""
        blocks = self.blocks(rows)
        scales, least = self._numbers(blocks, 0), self._numbers(blocks, 2)
        codes = unpack_q4(blocks, 4).reshape(len(blocks), -1, GROUP).astype(np.float32)
        return (codes * scales[:, :, None] + least[:, :, None]).reshape(len(blocks), -1)

    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""
        blocks = self.blocks(rows)
        scales, zero_points, _ = self._zero_points(blocks)
        return Integers(unpack_q4(blocks, 4), scales, zero_points)

    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array]:
        """Read scales and zero points of rows start:stop."""
        scales, zero_points, _ = self._zero_points(self.blocks(rows))
        return scales, zero_points

    @cached_property
    def scheme(self) -> Scheme | None:
        """Scheme with these codes; None where a block has no zero point. Reads all blocks, the first time."""
        blocks = (self.blocks(slice(at, min(at + _ROWS, self.shape[0]))) for at in range(0, self.shape[0], _ROWS))
        if not all(self._zero_points(block)[2] for block in blocks):
            return None
        return Scheme(4, GROUP, symmetric=False, scales="float16")

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        return "the value of code 0 is no multiple of the scale"

    @property
    def approximation(self) -> str | None:
        """What the scheme's values differ by from the file's."""
        return "the value of code 0 is taken before its rounding to float16"

    def _zero_points(self, blocks: UInt8Array) -> tuple[NDArray[np.float32], UInt8Array, bool]:
        """Scales, zero points, and whether these give the value of code 0 in every block."""
        scales, least = self._numbers(blocks, 0), self._numbers(blocks, 2)
        nearest = np.rint(np.divide(-least, scales, out=np.zeros_like(least), where=scales != 0)).clip(0, 15)
        with np.errstate(over="ignore"):
            given = (-nearest * scales).astype(np.float16)
        return scales, nearest.astype(np.uint8), bool((given == least.astype(np.float16)).all())


class GgufCheckpoint(Checkpoint):
    """Checkpoint in a GGUF file, or in several that it was split into.

    The files beside the weights are those of the file's folder; what is not there is made from the metadata, in a
    folder that lasts until `close`.
    """

    def __init__(self, path: Path) -> None:
        self._gguf = GgufFiles(path)
        self._made = tempfile.TemporaryDirectory(prefix="q3edge-gguf-")
        try:
            self._gguf.divide_experts()
            first, entries = self._config_source_of(path), self._gguf.entries
            if EMBEDDING not in entries:
                raise InputError(f"{first} (token_embd.weight): missing; expected a language model, in all its files")
            raw = read_config(self._gguf.metadata, entries, entries[EMBEDDING].shape[0], first)
            made = self._make_side_files(path, first)
            super().__init__(path, raw)
            self._notices += made
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the headers and check that the model is complete; InputError otherwise."""
        return cls(folder)

    @property
    def side_folder(self) -> Path:
        """Folder of the tokenizer and the other files beside the weights; gone when the model is closed."""
        return Path(self._made.name)

    def close(self) -> None:
        """Close the files; later reads fail."""
        self._gguf.close()
        self._made.cleanup()

    @property
    def _config_source(self) -> str:
        return self._config_source_of(self.folder)

    @property
    def _asking(self) -> str:
        return f"the metadata of {Path(self._config_source).name}"

    def _config_source_of(self, path: Path) -> str:
        return str(self._gguf.path_of(EMBEDDING)) if EMBEDDING in self._gguf.entries else str(path)

    def _open_files(self) -> TensorFiles:
        return self._gguf

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        matrices: dict[str, StoredMatrix] = {}
        for name, shape in tensor_shapes(self.config).items():
            if name not in stored or len(shape) != 2:
                continue
            kind = self._gguf.entries[stored[name]].dtype
            if kind in FLOATS:
                continue
            parts = Parts(self._gguf, {_WEIGHT: stored.pop(name)})
            layout = {"Q4_0": GgufIntegers, "Q8_0": GgufIntegers, "Q4_1": GgufOffsets}.get(kind, GgufMatrix)
            matrices[name] = layout(parts, (shape[0], shape[1]), kind)
        return matrices

    def _make_side_files(self, path: Path, source: str) -> list[Notice]:
        """Fill the side folder; returns a notice if there is no tokenizer that can be made."""
        beside = path if path.is_dir() else path.parent
        found = [name for name in SIDE_FILES if (beside / name).is_file()]
        for name in found:
            (self.side_folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(beside / name, self.side_folder / name)
        made, notices = read_generation_config(self._gguf.metadata), list[Notice]()
        try:
            made |= {} if TOKENIZER_FILE in found else read_tokenizer(self._gguf.metadata, source)
        except NoTokenizerError as reason:
            notices = [Notice("tokenizer-not-made", 1, f"no {TOKENIZER_FILE} was made of the metadata, as {reason}")]
        for name in made.keys() - set(found):
            (self.side_folder / name).write_text(made[name], encoding="utf-8")
        return notices


def _dequantizer(kind: str) -> Any:
    """Type in the gguf package. ResourceError: it is not installed."""
    try:
        from gguf.constants import GGMLQuantizationType
    except ImportError:
        raise ResourceError(
            f"GGUF {kind}: is read by the gguf package, which is not installed; {install_line('gguf')}"
        ) from None
    return GGMLQuantizationType[kind]


def _recognises(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == SUFFIX
    return bool(gguf_files(path)) and not has_safetensors(path)


GGUF: Final = ModelFormat("GGUF", _recognises, GgufCheckpoint.open)
