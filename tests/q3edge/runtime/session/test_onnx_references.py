"""Bad input 32: external data of a model must lie in plain files of its own folder, whatever the model says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from q3edge.errors import InputError
from q3edge.runtime.session.onnx_references import ExternalTensor, check_external_data, read_external_data
from tests.helpers.runtime import write_artifact


def external_tensor(name: str = "weight", **entries: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "data", "offset": "0", "length": "16"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_with(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "graph", [], [], list(initializers)))


def write(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "data").write_bytes(bytes(16))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_accepts_a_plain_file_beside_the_model(tmp_path: Path) -> None:
    model = write(tmp_path, model_with(external_tensor(), external_tensor("half", offset="8", length="8")))
    assert [data.location for data in check_external_data(model)] == ["data", "data"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "'weight'.*'../secret' leads out"),
        ({"location": "a/../../secret"}, "leads out"),
        ({"location": "/etc/hostname"}, "'/etc/hostname' leads out"),
        ({"location": ""}, "'weight'.*expected a file"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "'weight'.*missing"),
        ({"location": "nul\0"}, r"'weight': external data location = 'nul\\x00'"),
        ({"location": "a\nb"}, r"'weight': external data location = 'a\\nb'"),
        ({"location": "absent"}, "'weight'.*missing"),
        ({"offset": "-1"}, "offset = '-1', expected a number"),
        ({"offset": "1e1"}, "offset = '1e1', expected a number"),
        ({"length": "99999999999999999999"}, "length = .*expected a number"),
        ({"offset": "17", "length": "0"}, "16 bytes, but tensor 'weight' ends at byte 17"),
        ({"length": "17"}, "16 bytes, but tensor 'weight' ends at byte 17"),
        ({"offset": "8"}, "16 bytes, but tensor 'weight' ends at byte 24"),
        ({"basepath": "/"}, "unknown or repeated key 'basepath'"),
    ],
)
def test_refuses_bad_references(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    with pytest.raises(InputError, match=message):
        check_external_data(write(tmp_path / "onnx", model_with(external_tensor(**entries))))


def test_refuses_a_repeated_location(tmp_path: Path) -> None:
    tensor = external_tensor()
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(InputError, match="unknown or repeated key 'location'"):
        check_external_data(write(tmp_path, model_with(tensor)))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_a_name_in_the_folder_and_its_content_is_the_manifests_to_judge(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    model = write(tmp_path / "onnx", model_with(external_tensor()))
    (tmp_path / "onnx" / "data").rename(tmp_path / "elsewhere")
    link(tmp_path / "elsewhere", tmp_path / "onnx" / "data")
    assert [data.location for data in check_external_data(model)] == ["data"]
    (tmp_path / "elsewhere").unlink()
    if link is os.symlink:
        with pytest.raises(InputError, match="dangling link"):
            check_external_data(model)


def hiding_places() -> dict[str, onnx.ModelProto]:
    """Models by field of onnx.proto that can hold a tensor, each with one whose data leads out of the folder."""
    tensor = external_tensor("hidden", location="../secret")
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [])
    sparse = onnx.SparseTensorProto(values=tensor, dims=[4])
    places = {
        "initializer": model_with(tensor),
        "attribute": model_with(nodes=(constant,)),
        "tensors": model_with(nodes=(helper.make_node("X", [], ["x"], ts=[tensor]),)),
        "subgraph": model_with(nodes=(helper.make_node("If", ["c"], ["x"], then_branch=branch),)),
        "graphs": model_with(nodes=(helper.make_node("X", [], ["x"], gs=[branch]),)),
        "sparse attribute": model_with(nodes=(helper.make_node("Constant", [], ["c"], sparse_value=sparse),)),
        "sparse attributes": model_with(nodes=(helper.make_node("X", [], ["x"], sparse_values=[sparse]),)),
    }
    for name in ("sparse initializer", "function", "function attribute", "training"):
        places[name] = model_with()
    places["sparse initializer"].graph.sparse_initializer.append(sparse)
    places["function"].functions.add(name="f").node.append(constant)
    places["function attribute"].functions.add(name="f").attribute_proto.append(constant.attribute[0])
    places["training"].training_info.add().algorithm.CopyFrom(branch)
    return places


@pytest.mark.parametrize("place", hiding_places())
def test_finds_a_reference_wherever_it_hides(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    with pytest.raises(InputError, match=r"'hidden'.*leads out"):
        check_external_data(write(tmp_path / "onnx", hiding_places()[place]))


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 11, b"\x0b\x0c", b"\x00\x00"]
)
def test_refuses_what_is_not_protobuf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not a valid ONNX file"):
        check_external_data(tmp_path / "model.onnx")


def test_refuses_deep_nesting(tmp_path: Path) -> None:
    def field(number: int, value: bytes) -> bytes:
        size = len(value)
        return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + value

    graph = b""
    for _ in range(60):  # graph -> node -> attribute -> graph
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph))
    with pytest.raises(InputError, match="nested too deeply"):
        check_external_data(tmp_path / "model.onnx")


def test_reads_what_the_onnx_package_reads(tmp_path: Path) -> None:
    model = write_artifact(tmp_path / "artifact") / "onnx/model.onnx"
    expected = set()
    for tensor in onnx.load(model, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            length = int(entries["length"]) if "length" in entries else None
            place = entries["location"], int(entries.get("offset", 0)), length
            expected.add(ExternalTensor(tensor.name, tensor.data_type, tuple(tensor.dims), *place))
    found = read_external_data(model)
    assert len(found) > 5
    assert set(found) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_never_escape(tmp_path: Path, data: st.DataObject) -> None:
    """After any change the check passes with the file inside the folder, or raises InputError."""
    original = model_with(external_tensor(), nodes=(helper.make_node("If", ["c"], ["x"], value=external_tensor()),))
    content = bytearray(original.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    model = write(tmp_path, original)
    model.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        locations, message = {data.location for data in check_external_data(model)}, ""
    except InputError as error:
        locations, message = set(), str(error)
    assert {(tmp_path / location).resolve() for location in locations} <= {tmp_path / "data"}
    assert message.isprintable()
