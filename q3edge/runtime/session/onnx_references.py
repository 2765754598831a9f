"""References of an ONNX model to tensors in other files, read from its bytes and checked against the folder.

Field numbers are those of onnx.proto (onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from q3edge.artifact import contained_file
from q3edge.errors import InputError
from q3edge.runtime.session.wire_format import MalformedError, Message, fields

# Message type -> field number -> type of the message in that field; every path to a tensor.
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL_DATA = 1, 2, 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_MAX_DEPTH = 100  # protobuf's own limit on nesting
_ENTRY_KEYS = {"location", "offset", "length", "checksum"}


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """Location of one tensor's bytes: a file name relative to the model's folder, and a range of bytes in it.

    data_type is a number of TensorProto.DataType; length None: not given.
    """

    tensor: str
    data_type: int
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int | None


def check_external_data(model: Path) -> tuple[ExternalTensor, ...]:
    """Read all references to external data and check that each names a file, or a link to one, in the model's folder.

    InputError names the tensor: a location with `..`, an absolute path, a missing or short file, an offset or length
    that is no number. What a link leads to is trusted by its sha256 alone, which the caller checks. Must run before a
    library that follows the references opens the model.
    """
    files: dict[str, tuple[Path, int]] = {}
    found = read_external_data(model)
    for data in found:
        if data.location not in files:
            try:
                path = contained_file(model.parent, data.location)
            except (InputError, ValueError) as error:
                raise InputError(f"{model}: tensor {data.tensor!r}: external data: {error}") from None
            files[data.location] = path, path.stat().st_size
        path, size = files[data.location]
        end = data.offset + (data.length or 0)
        if end > size:
            raise InputError(
                f"{path}: {size} bytes, but tensor {data.tensor!r} ends at byte {end}; copy or make the folder again"
            )
    return found


def read_external_data(model: Path) -> tuple[ExternalTensor, ...]:
    """Read every tensor with external data in the model, with subgraphs and functions; InputError if it is no model."""
    try:
        content = model.read_bytes()
        if not content:
            raise MalformedError("it is empty")
        return tuple(_walk(Message.whole(content), "Model", 0))
    except MalformedError as error:
        raise InputError(f"{model}: not a valid ONNX file ({error}); copy or make the folder again") from None


def _walk(message: Message, kind: str, depth: int) -> Iterator[ExternalTensor]:
    if depth > _MAX_DEPTH:
        raise MalformedError("nested too deeply")
    if kind == "Tensor":
        yield from _tensor(message)
        return
    for number, value in fields(message):
        child = _CHILDREN[kind].get(number)
        if child is not None and isinstance(value, Message):
            yield from _walk(value, child, depth + 1)


def _tensor(message: Message) -> Iterator[ExternalTensor]:
    name, entries, data_type, shape = "", {}, 0, []
    for number, value in fields(message):
        if isinstance(value, int):
            if number == _TENSOR_DIMS:
                shape.append(value)
            elif number == _TENSOR_DATA_TYPE:
                data_type = value
        elif number == _TENSOR_NAME:
            name = value.text()
        elif number == _TENSOR_EXTERNAL_DATA:
            pair = {number: text.text() for number, text in fields(value) if isinstance(text, Message)}
            key = pair.get(_ENTRY_KEY, "")
            if key in entries or key not in _ENTRY_KEYS:  # readers disagree on which of two entries counts
                raise MalformedError(f"tensor {name!r}: external data has an unknown or repeated key {key!r}")
            entries[key] = pair.get(_ENTRY_VALUE, "")
    if entries:
        if not entries.get("location", "").isprintable():  # it goes into messages
            raise MalformedError(f"tensor {name!r}: external data location = {entries['location']!r}")
        length = _number(name, entries, "length") if "length" in entries else None
        offset = _number(name, entries, "offset")
        yield ExternalTensor(name, data_type, tuple(shape), entries.get("location", ""), offset, length)


def _number(tensor: str, entries: Mapping[str, str], key: str) -> int:
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise MalformedError(f"tensor {tensor!r}: external data {key} = {text!r}, expected a number of bytes")
    return int(text)
