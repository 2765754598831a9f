"""Files of packed matrices in memory: in the file's own pages, and copied into large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from q3edge.kernels.library import DOMAIN, Library, MatrixShape, library
from tests.helpers.packed import RandomMatrix

FOUND = library()
SHAPE = MatrixShape(9000, 1024, 64, 4, symmetric=False, float32_scales=False)  # more than a page of 2 MB
pytestmark = pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")


@pytest.fixture(scope="module")
def matrix() -> RandomMatrix:
    return RandomMatrix.of(SHAPE, np.random.default_rng(0))


def built() -> Library:
    assert FOUND is not None
    return FOUND


@pytest.mark.parametrize("copied", [0, 2**21 + 5000, 2**30], ids=["nothing", "a part", "all"])
def test_a_loaded_matrix_is_what_the_operator_reads(matrix: RandomMatrix, copied: int, tmp_path: Path) -> None:
    packed = matrix.packed(built())
    (tmp_path / "matrices").write_bytes(packed.tobytes())
    common = {"offset": 0, "instruction_set": 0, "threads": 2}
    attributes: dict[str, Any] = {**common, **SHAPE.attributes()}
    node = helper.make_node("MatMulNBits", ["x"], ["y"], domain=DOMAIN, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "one", values[:1], values[1:]), opset_imports=opsets)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(built().path))
    with built().mapped(tmp_path / "matrices", copied=copied):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        assert built().load(0, SHAPE) == built().checksum(packed)
    x = np.random.default_rng(1).normal(size=(3, SHAPE.width)).astype(np.float32)
    expected = built().multiply(built().instruction_sets[0], SHAPE, packed, x)
    assert np.array_equal(session.run(None, {"x": x})[0], expected)  # it holds what was mapped
    assert built().load(0, SHAPE) == 0  # nobody is given it any more


@pytest.mark.parametrize("copied", [0, 2**21 + 5000, 2**30], ids=["nothing", "a part", "all"])
def test_damage_and_what_does_not_lie_there_are_told(matrix: RandomMatrix, copied: int, tmp_path: Path) -> None:
    packed = matrix.packed(built())
    damaged = packed.copy()
    damaged[-1] ^= 1
    (tmp_path / "matrices").write_bytes(damaged.tobytes())
    with built().mapped(tmp_path / "matrices", copied=copied):
        assert built().load(0, SHAPE) not in (0, built().checksum(packed))
        assert built().load(64, SHAPE) == 0
    with pytest.raises(FileNotFoundError), built().mapped(tmp_path / "missing", copied=copied):
        pass
