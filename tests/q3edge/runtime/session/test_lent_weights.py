"""Weights that this process maps and lends to onnxruntime."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from threading import Thread

import numpy as np
import onnxruntime as ort
import pytest

from q3edge.artifact import DATA_FILE
from q3edge.formats import FORMATS
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.session import lent_weights
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.session.onnx_references import ExternalTensor
from tests.helpers.runtime import write_artifact

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
UINT8, FLOAT16 = 2, 10  # TensorProto.DataType
SIZE = 32 << 20


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_tensor_of_every_format_is_lent(format_name: str, tmp_path: Path) -> None:
    quantize_checkpoint(str(DEMO_MODEL), tmp_path / "quantized", Recipe.for_format(format_name))
    export_artifact(str(tmp_path / "quantized"), tmp_path / "out")
    check_all_lent(tmp_path / "out")


def test_every_tensor_of_a_float_model_is_lent(tmp_path: Path) -> None:
    check_all_lent(write_artifact(tmp_path / "artifact"))


def check_all_lent(folder: Path) -> None:
    found = open_graph(folder).external_data
    assert len(found) > 5
    assert LentWeights(folder / DATA_FILE, found).names == {data.tensor for data in found}


def test_logits_are_those_of_weights_that_onnxruntime_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_artifact(tmp_path / "artifact")
    lent = Decoder(folder, threads=1)
    monkeypatch.setattr(LentWeights, "lend", lambda *_: None)
    read = Decoder(folder, threads=1)
    ids = np.arange(40)[None] % 32
    found, expected = (decoder.forward(ids, decoder.new_cache(64), keep=0) for decoder in (lent, read))
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_understood_is_left_to_onnxruntime(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(64))
    tensors = [
        ExternalTensor("good", FLOAT16, (2, 8), "data", 32, 32),
        ExternalTensor("another type", 99, (2, 8), "data", 0, 32),
        ExternalTensor("too short", FLOAT16, (3, 8), "data", 0, 32),
        ExternalTensor("no length", FLOAT16, (2, 8), "data", 0, None),
        ExternalTensor("another file", FLOAT16, (2, 8), "data2", 0, 32),
        ExternalTensor("empty", UINT8, (0,), "data", 0, 0),
    ]
    assert LentWeights(path, tensors).names == {"good"}
    assert LentWeights(path, tensors[1:]).names == frozenset()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_read_inside_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    options = _Options()
    lent = LentWeights(path, [ExternalTensor("weight", UINT8, (SIZE,), "weights", 0, SIZE)])
    lent.lend(options)
    with lent.drop_read_pages():
        assert options.read() == 0
    assert _resident(path) == 0
    options.read()
    assert _resident(path) == SIZE  # or the test could not fail
    with pytest.raises(ZeroDivisionError), lent.drop_read_pages():
        raise ZeroDivisionError
    assert _resident(path) == 0


class _Options:
    """Session options that record the initializers lent to them."""

    def add_initializer(self, _name: str, value: ort.OrtValue) -> None:
        self._value = value

    def read(self) -> int:
        """Sum of all bytes."""
        return int(self._value.numpy().sum())


def _resident(path: Path) -> int:
    """Bytes of this process's mappings of a file that are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = bool(rest) and rest[-1] == str(path)
        elif inside and name == "Rss:":
            total += int(rest[0]) << 10
    return total


def test_r1_a_signal_inside_start_leaves_no_thread_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Thread] = []

    class Interrupted(Thread):
        def start(self) -> None:
            super().start()
            started.append(self)
            raise KeyboardInterrupt

    (tmp_path / "data").write_bytes(bytes(64))
    lent = LentWeights(tmp_path / "data", [ExternalTensor("good", FLOAT16, (2, 8), "data", 32, 32)])
    monkeypatch.setattr(lent_weights, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt), lent.drop_read_pages():
        pass
    assert started[0].daemon
    started[0].join()  # for ever, were it not told to end
