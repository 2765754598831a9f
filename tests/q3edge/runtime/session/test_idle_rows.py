"""A row that is idle in a pass is neither read nor written, and the others are as without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.idle_rows import QUERY_SEQLENS, with_idle_rows
from tests.helpers.runtime import write_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("idle") / "artifact")


def attention(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return found + [node for part in inner for node in attention(part)]


def test_only_attention_on_the_buffers_of_the_cache_asks_for_the_counts(folder: Path) -> None:
    before = onnx.load(str(folder / "onnx/model.onnx"), load_external_data=False)
    copied = before.graph.node.add()  # as in a branch for long prompts, which reads a copy of the cache
    copied.CopyFrom(attention(before.graph)[0])
    copied.input[3], copied.name = "copy", "branch"
    after = onnx.load_from_string(with_idle_rows(before.SerializeToString()))
    for old, new in zip(attention(before.graph), attention(after.graph), strict=True):
        if old.name == "branch":
            assert new == old
        else:
            assert list(new.input) == [*old.input, *[""] * (16 - len(old.input)), QUERY_SEQLENS]
            del new.input[len(old.input) :]
            assert new == old
    (added,) = after.graph.input[len(before.graph.input) :]
    assert (added.name, added.type.tensor_type.elem_type) == (QUERY_SEQLENS, onnx.TensorProto.INT32)
    assert added.type.tensor_type.shape.dim[0].dim_param == "batch_size"


def test_a_graph_without_such_attention_is_left_as_it_is() -> None:
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "g", [], [])
    content = onnx.helper.make_model(graph).SerializeToString()
    assert with_idle_rows(content) == content


def test_idle_rows_keep_what_they_hold_and_change_nothing(folder: Path) -> None:
    decoder = Decoder(folder, threads=1)
    cache = decoder.new_cache(40, 5)
    prompts = [np.arange(3 + row, 9 + 3 * row)[None] for row in range(5)]
    for row, prompt in enumerate(prompts):
        decoder.forward(prompt, cache, first_row=row)
    cache.give_back(3)
    before = {buffer: array.copy() for buffer, array in cache.arrays.items()}
    lengths = list(cache.lengths)
    found = decoder.forward(np.array([[7], [8], [9], [10]]), cache, counts=[1, 0, 1, 0], first_row=0)
    assert cache.lengths == [lengths[0] + 1, lengths[1], lengths[2] + 1, 0, lengths[4]]
    for buffer, array in cache.arrays.items():
        np.testing.assert_array_equal(array[[1, 3, 4]], before[buffer][[1, 3, 4]])
    for row, token in ((0, 7), (2, 9)):
        expected = decoder.forward(np.concatenate([prompts[row], [[token]]], axis=1), decoder.new_cache(40))
        np.testing.assert_allclose(found[row], expected[0], atol=2e-4 * np.abs(expected).max())


def test_a_row_that_is_not_taken_may_only_be_idle_where_each_has_one_token(folder: Path) -> None:
    decoder = Decoder(folder, threads=1)
    cache = decoder.new_cache(16, 2)
    cache.give_back(1)
    decoder.forward(np.array([[5], [0]]), cache, counts=[1, 0])
    with pytest.raises(ValueError, match="not all of them are taken"):
        decoder.forward(np.array([[5], [0]]), cache)
    with pytest.raises(ValueError, match="not all of them are taken"):
        decoder.forward(np.zeros((2, 3), np.int64), cache, counts=[3, 0])
