"""GGUF of a checkpoint, with its codes as they are: what llama.cpp runs, one file with tokenizer and chat template.

Symmetric 4 bits become Q4_0 and symmetric 8 bits Q8_0, exactly; asymmetric 4 bits Q4_1, which stores the value of code
0 in place of the zero point, rounded to float16. All have groups of 32: larger ones repeat their scale. `GgufSizes`
tells the bytes of a file that is not written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice, folder_name
from q3edge.artifact.side_files import GENERATION_CONFIG_FILE, TOKENIZER_FILE
from q3edge.checkpoint import ModelFolder
from q3edge.checkpoint.gguf.blocks import GROUP, pack_q4, pack_q8
from q3edge.checkpoint.gguf.model_metadata import write_config, write_sampling
from q3edge.checkpoint.gguf.tensor_names import gguf_name
from q3edge.checkpoint.gguf.tokenizer_metadata import TEMPLATE_KEY, special_ids, write_tokenizer
from q3edge.checkpoint.gguf.writer import GgufWriter, Value, file_bytes, padded, tensor_bytes
from q3edge.checkpoint.safetensors.writer import bfloat16_bits
from q3edge.errors import InputError, UsageError
from q3edge.exporters.minimums import Minimums
from q3edge.quantization.scheme import Scales, Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.runtime.text.template_file import read_template
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.storage.json_files import read_json_object

FILE: Final = "model.gguf"
_BLOCK_WEIGHTS = 4 << 20
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}  # llama.cpp's enum llama_ftype
_FILE_TYPE = "general.file_type"
_QUANTIZATION_VERSION = 2
# Those that a block of GGUF has no byte to spare beside: each type stores a float16 as scale.
GGUF_SCHEMES: Final = (
    Scheme(4, GROUP, scales="float16"), Scheme(4, GROUP, symmetric=False, scales="float16"),
    Scheme(8, GROUP, scales="float16"),
)  # fmt: skip
_ALIKE = "choose --format int4-mixed, int4 (--group-size 32) or int8 (--group-size 32, or int8-dynamic)"


class Described(Protocol):
    """Model without its weights: all that decides how many bytes its file has."""

    @property
    def config(self) -> Qwen3Config:
        """Configuration of the model."""

    @property
    def folder(self) -> Path:
        """Path that the model is, or will be, opened from, whose name is in the file."""

    @property
    def side_folder(self) -> Path:
        """Folder of the tokenizer and the generation settings."""

    def scheme(self, name: str) -> Scheme | None:
        """Scheme of a tensor; None: it is float."""

    def dtype(self, name: str) -> str:
        """Stored dtype of a float tensor: BF16, F16 or F32."""


def write_gguf(source: ModelFolder, folder: Path) -> tuple[Notice, ...]:
    """Write folder/model.gguf; returns notices of what llama.cpp does otherwise.

    InputError: a scheme, rotary scaling or tokenizer that GGUF has no place for.
    """
    types = _types(source)
    entries, members = _entries(source, types)
    metadata, notices = _metadata(source, types)
    minimums = Minimums()
    with GgufWriter(folder / FILE, entries, metadata) as writer:
        for own, names in members.items():
            for name in names:
                for rows in _row_blocks(tensor_shapes(source.config)[name]):
                    writer.append(own, _stored(source, name, types[name], rows, minimums))
    return (*notices, *minimums.notices(), *_activations(source))


class GgufSizes:
    """Bytes of the files that `write_gguf` makes of quantized checkpoints of one model, by their tensors' schemes.

    model: what is quantized; folder: of the checkpoint. Exact where all matrices of the layers are quantized, or none:
    beside quantized ones a float matrix is counted as float32, as which it is stored where a channel scale was folded
    into it. InputError: as of `write_gguf`.
    """

    def __init__(self, model: ModelFolder, folder: Path) -> None:
        self._model, self._folder = model, folder

    def of_file(self, schemes: Mapping[str, Scheme | None]) -> int:
        """Bytes of the whole file; schemes: of every tensor."""
        source = _Planned(self._model, self._folder, schemes)
        types = _types(source)
        return file_bytes(_entries(source, types)[0], self._metadata | {_FILE_TYPE: _file_type(source.config, types)})

    def of_tensors(self, schemes: Mapping[str, Scheme | None]) -> int:
        """Bytes of these tensors in a file with quantized ones; all experts of a layer are among them, or none."""
        source, shapes = _Planned(self._model, self._folder, schemes), tensor_shapes(self._model.config)
        together: Counter[str] = Counter()
        for name in schemes:
            together[gguf_name(name)] += tensor_bytes(_type(source, name, shapes[name]), shapes[name])
        return sum(map(padded, together.values()))

    @cached_property
    def _metadata(self) -> dict[str, Value]:
        """Metadata, the same for all but for the type of most weights."""
        names = tensor_shapes(self._model.config)
        return _metadata(_Planned(self._model, self._folder, dict.fromkeys(names)), dict.fromkeys(names, "F32"))[0]


class _Planned:
    """A checkpoint that will be made of `model` in `folder` by `schemes`."""

    def __init__(self, model: ModelFolder, folder: Path, schemes: Mapping[str, Scheme | None]) -> None:
        self.config, self.folder, self.side_folder = model.config, folder, model.side_folder
        self._model, self._schemes = model, schemes
        self._is_float = not any(schemes.values())

    def scheme(self, name: str) -> Scheme | None:
        return self._schemes[name]

    def dtype(self, name: str) -> str:
        return self._model.dtype(name) if self._is_float or name in (EMBEDDING, LM_HEAD) else "F32"


def _types(source: Described) -> dict[str, str]:
    """Type of every tensor by transformers' name."""
    refused: dict[str, str] = {}
    types: dict[str, str] = {}
    for name, shape in tensor_shapes(source.config).items():
        scheme = source.scheme(name)
        if scheme is not None and (reason := _unfit(scheme, shape[-1])):
            refused[name] = reason
        else:
            types[name] = _type(source, name, shape)
    if refused:
        name, reason = next(iter(refused.items()))
        raise InputError(f"{source.folder}: GGUF cannot hold {len(refused)} tensors: {name} has {reason}; {_ALIKE}")
    return types


def _type(source: Described, name: str, shape: tuple[int, ...]) -> str:
    """Type of a tensor, which is float or has a scheme that fits."""
    scheme = source.scheme(name)
    if scheme is None:
        return "F32" if len(shape) == 1 or name.endswith("mlp.gate.weight") else source.dtype(name)
    return "Q8_0" if scheme.bits == 8 else "Q4_0" if scheme.symmetric else "Q4_1"


def _unfit(scheme: Scheme, width: int) -> str | None:
    """Reason for which no type of GGUF holds the scheme's codes; None: one does."""
    group = width if scheme.group_size is None else scheme.group_size
    if scheme.bits == 2:
        return "2 bits"
    if group % GROUP:
        return f"groups of {group}" if scheme.group_size else f"a width of {width}, which {GROUP} does not divide"
    return "8 bits with zero points" if scheme.bits == 8 and not scheme.symmetric else None


def _entries(
    source: Described, types: Mapping[str, str]
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, list[str]]]:
    """Entries of the file, name -> (type, shape), and the tensors of each: of all experts, in their order."""
    members: dict[str, list[str]] = {}
    shapes = tensor_shapes(source.config)
    for name in shapes:
        members.setdefault(gguf_name(name), []).append(name)
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    for own, names in members.items():
        if len(kinds := {types[name] for name in names}) > 1:
            raise InputError(
                f"{source.folder}: experts of one layer are one tensor in GGUF, of one type, but {own} would have "
                f"{', '.join(sorted(kinds))}; give all experts of a layer one scheme"
            )
        one = shapes[names[0]]
        entries[own] = (types[names[0]], (len(names), *one) if own.endswith("_exps.weight") else one)
    return entries, members


def _stored(source: ModelFolder, name: str, kind: str, rows: slice, minimums: Minimums) -> NDArray[Any]:
    """Rows of a tensor as they are stored."""
    if kind == "BF16":
        return bfloat16_bits(source.read(name, rows))
    if kind in ("F16", "F32"):
        return source.read(name, rows).astype("<f2" if kind == "F16" else "<f4")
    block = _in_groups_of_32(source.read_quantized(name, rows))
    scales = block.scales.astype(np.float16)
    if not (scales.astype(np.float32) == block.scales.astype(np.float32)).all():
        raise InputError(f"{source.folder} ({name}): scales that float16 does not hold, which GGUF stores; {_ALIKE}")
    if kind == "Q8_0":
        return pack_q8(block.codes, scales)
    return (
        pack_q4(block.codes, scales)
        if kind == "Q4_0"
        else pack_q4(block.codes, scales, minimums.of(block, f"{source.folder} ({name})", np.float16))
    )


def _in_groups_of_32(block: QuantizedTensor) -> QuantizedTensor:
    """Same values by groups of 32, each of which repeats the scale and zero point of its own."""
    scheme = block.scheme
    kind: Scales = "float32" if scheme.scales == "float32" else "float16"
    return block.regrouped(Scheme(scheme.bits, GROUP, scheme.symmetric, scales=kind))


def _metadata(source: Described, types: Mapping[str, str]) -> tuple[dict[str, Value], tuple[Notice, ...]]:
    config = source.config
    try:
        settings = write_config(config)
    except UsageError as error:
        raise InputError(f"{source.folder}: {error}") from None
    architecture = str(settings.pop("general.architecture"))
    found: dict[str, Value] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": folder_name(source.folder),
        _FILE_TYPE: _file_type(config, types),
        "general.quantization_version": _QUANTIZATION_VERSION,
        **settings,
    }
    generation = source.side_folder / GENERATION_CONFIG_FILE
    found |= write_sampling(read_json_object(generation) if generation.exists() else {})
    path = source.side_folder / TOKENIZER_FILE
    if not path.exists():
        detail = f"{source.folder} has no {TOKENIZER_FILE}: the GGUF file takes token ids alone"
        return found | {"tokenizer.ggml.model": "none"}, (Notice("tokenizer-missing", 1, detail),)
    around = Tokenizer.load(source.side_folder, config.vocab_size).encode_whole("")
    found |= write_tokenizer(read_json_object(path), config.vocab_size, str(path))
    end = config.eos_token_ids[0] if config.eos_token_ids else None
    adds_end = bool(around)
    found |= special_ids(
        bos_token_id=config.bos_token_id, eos_token_id=around[-1] if adds_end else end,
        padding_token_id=config.pad_token_id, add_bos_token=False, add_eos_token=adds_end or None,
    )  # fmt: skip
    template = read_template(source.side_folder)
    return found | ({} if template is None else {TEMPLATE_KEY: template.text}), ()


def _file_type(config: Qwen3Config, types: Mapping[str, str]) -> int:
    """Number of the type that takes most of the matrices' weights."""
    weights: Counter[str] = Counter()
    for name, shape in tensor_shapes(config).items():
        if len(shape) > 1:
            weights[types[name]] += shape[0] * shape[1]
    return _FILE_TYPES[weights.most_common(1)[0][0]]


def _activations(source: ModelFolder) -> Iterator[Notice]:
    """Yield what becomes of activations that are rounded for each token."""
    schemes = (source.scheme(name) for name in source.names())
    if by_token := sum(scheme is not None and scheme.activations == "int8_per_token" for scheme in schemes):
        detail = "matrices read activations rounded for each token here, in llama.cpp for each block of 32"
        yield Notice("activations-by-block", by_token, detail)


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _BLOCK_WEIGHTS // shape[-1]) if len(shape) > 1 else shape[0]
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))
