"""The wire format, against the onnx package's protobuf."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.runtime.session.wire_format import MalformedError, Message, field_bytes, fields, rewritten


@given(st.text(max_size=300), st.integers(0, 2**62), st.binary(max_size=300))
def test_fields_are_written_as_protobuf_writes_them(name: str, size: int, raw: bytes) -> None:
    tensor = onnx.TensorProto(dims=[size], name=name, raw_data=raw)
    written = field_bytes(8, name.encode()) + field_bytes(9, raw) + field_bytes(1, size)
    assert onnx.TensorProto.FromString(written) == tensor
    found = dict(fields(Message.whole(written)))
    assert found[1] == size
    assert isinstance(found[8], Message)
    assert found[8].text() == name


@given(st.lists(st.text(max_size=200), min_size=1, max_size=9), st.integers(0, 8), st.text(max_size=200))
def test_one_field_is_rewritten_and_the_others_stay(names: list[str], which: int, new: str) -> None:
    node = onnx.NodeProto(input=names, op_type="Add", name="n", attribute=[onnx.helper.make_attribute("a", 1.5)])
    seen: list[str] = []

    def change(number: int, value: Message) -> bytes | None:
        if number != 1:
            return None
        seen.append(value.text())
        return new.encode() if len(seen) - 1 == which else None

    found = onnx.NodeProto.FromString(rewritten(Message.whole(node.SerializeToString()), change))
    assert seen == names
    if which < len(names):
        node.input[which] = new
    assert found == node


def test_a_name_that_is_no_text_is_malformed() -> None:
    with pytest.raises(MalformedError, match="not UTF-8"):
        Message.whole(b"\xff").text()
