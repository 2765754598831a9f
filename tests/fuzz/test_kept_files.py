"""Damaged files of caches and work folders, and damaged graphs: noticed, never taken for what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.artifact import MODEL_FILE
from q3edge.errors import Q3EdgeError
from q3edge.runtime.session.loader import open_artifact
from q3edge.runtime.session.onnx_references import check_external_data
from q3edge.storage.array_file import DamagedFileError, read_arrays, write_arrays
from q3edge.storage.sealed_json import read_sealed, write_sealed
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, outcome
from tests.helpers.runtime import write_artifact

ARRAYS: dict[str, NDArray[Any]] = {
    "codes": np.arange(60, dtype=np.uint8).reshape(3, 20),
    "scales": np.linspace(0, 1, 7, dtype=np.float32),
}
NOTE = {"layer": 3, "loss": 0.5, "names": ["a", "b"]}


def test_files_of_arrays(tmp_path: Path) -> None:
    """A file that is read holds exactly what was written."""
    path, refused = tmp_path / "kept.bin", 0
    write_arrays(path, ARRAYS, NOTE)
    content = path.read_bytes()

    def read() -> Any:
        try:
            return read_arrays(path)
        except DamagedFileError as error:
            return error

    for index, source in counts("arrays", 1500, 4500):
        path.write_bytes(damaged_bytes(content, source))
        found = outcome(f"arrays:{index}", read)
        if isinstance(found, DamagedFileError):
            refused += 1
            continue
        arrays, note = found
        assert note == NOTE, index
        assert arrays.keys() == ARRAYS.keys(), index
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], values, err_msg=str(index))
    check_refusals(refused)


def test_sealed_json(tmp_path: Path) -> None:
    path, refused = tmp_path / "costs.json", 0
    write_sealed(path, NOTE)
    content = path.read_bytes()

    for index, source in counts("sealed", 1500, 4500):
        path.write_bytes(damaged_bytes(content, source))
        found = outcome(f"sealed:{index}", lambda: read_sealed(path))
        refused += found is None
        assert found is None or found == NOTE, index
    check_refusals(refused)


@pytest.mark.slow
def test_graphs(tmp_path: Path) -> None:
    """A damaged graph does not reach onnxruntime; what reads its references alone refuses or finds tensors inside."""
    folder = write_artifact(tmp_path / "artifact")
    path = folder / MODEL_FILE
    content = path.read_bytes()
    for index, source in counts("graph", 300, 2000):
        damaged = damaged_bytes(content, source)
        path.write_bytes(damaged)
        found = outcome(f"graph:{index}", lambda: check_external_data(path))
        if not isinstance(found, Q3EdgeError):
            sizes = {tensor.location: (path.parent / tensor.location).stat().st_size for tensor in found}
            assert all(tensor.offset + (tensor.length or 0) <= sizes[tensor.location] for tensor in found), index
        opened = outcome(f"graph:{index}", lambda: open_artifact(folder))
        assert isinstance(opened, Q3EdgeError) or damaged == content, index
