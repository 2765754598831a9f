"""Kernels of our own in a session: the same logits, weights packed once, and what prevents or damages them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge import progress
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.kernels.choice import VARIABLE
from q3edge.kernels.library import library
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.session import kernels
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.kernels import FOLDER, PACKING, chosen_kernels
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.session.packed_products import PackedProducts, read_packed_products
from q3edge.storage.kept_folder import UNUSED_DAYS
from tests.helpers.models import write_checkpoint
from tests.helpers.notes import Notes
from tests.helpers.runtime import write_tokenizer

FOUND = library()
FORMATS = ("int4", "int4-mixed", "int4-fast", "int8")
pytestmark = pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model in several formats."""
    folder = tmp_path_factory.mktemp("models")
    write_tokenizer(write_checkpoint(folder / "float"))
    for name in FORMATS:
        quantize_checkpoint(str(folder / "float"), folder / f"{name}.quantized", Recipe.for_format(name))
        export_artifact(str(folder / f"{name}.quantized"), folder / name)
    return {name: folder / name for name in FORMATS}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of packed weights, for one test."""
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / FOLDER


def logits(decoder: Decoder, tokens: int = 40) -> NDArray[np.float32]:
    ids = np.random.default_rng(1).integers(2, 320, (1, tokens))
    return decoder.forward(ids, decoder.new_cache(tokens), keep=0)


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_onnxruntimes_kernels(models: dict[str, Path], kept: Path, name: str) -> None:
    """Both round activations to the same int8 codes, but for ties, and sum in float32 in an order of their own."""
    expected = logits(Decoder(models[name], threads=1, kernels="onnxruntime"))
    assert FOUND is not None
    for instruction_set in FOUND.instruction_sets:
        decoder = Decoder(models[name], threads=1, kernels=f"q3edge:{instruction_set}")
        assert decoder.kernels.startswith(f"q3edge ({instruction_set}, ")
        found = logits(decoder)
        assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
        assert np.abs(found - expected).mean() < 0.001 * np.abs(expected).mean()


def test_threads_change_no_bit(models: dict[str, Path], kept: Path) -> None:
    one, three = (logits(Decoder(models["int4"], threads=threads, kernels="q3edge")) for threads in (1, 3))
    assert np.array_equal(one, three)


def test_weights_are_packed_once_and_the_artifact_stays(models: dict[str, Path], kept: Path) -> None:
    before = {name: (models["int4"] / name).read_bytes() for name in (MODEL_FILE, DATA_FILE)}
    with progress.report_to(notes := Notes()):
        first = logits(Decoder(models["int4"], threads=1, kernels="q3edge"))
        (path,) = kept.glob("*/matrices.bin")
        written = path.stat().st_mtime_ns
        Decoder(models["int4"], threads=1, kernels="q3edge")
    assert [line.startswith(PACKING) for line in notes.lines] == [True]
    assert np.array_equal(logits(Decoder(models["int4"], threads=1, kernels="q3edge")), first)
    assert path.stat().st_mtime_ns == written
    assert before == {name: (models["int4"] / name).read_bytes() for name in before}


@pytest.mark.parametrize("place", [0, -1])
def test_damage_is_found_and_mended(models: dict[str, Path], kept: Path, place: int) -> None:
    expected = logits(Decoder(models["int4"], threads=1, kernels="q3edge"))
    (path,) = kept.glob("*/matrices.bin")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="was damaged and is removed"):
        Decoder(models["int4"], threads=1, kernels="q3edge")
    assert np.array_equal(logits(Decoder(models["int4"], threads=1, kernels="q3edge")), expected)


def test_a_cut_file_or_a_damaged_index_is_made_again(models: dict[str, Path], kept: Path) -> None:
    expected = logits(Decoder(models["int4"], threads=1, kernels="q3edge"))
    for name in ("matrices.bin", "matrices.json"):
        (path,) = kept.glob(f"*/{name}")
        path.write_bytes(path.read_bytes()[:-64])
        assert np.array_equal(logits(Decoder(models["int4"], threads=1, kernels="q3edge")), expected)


def test_changed_weights_are_never_packed(models: dict[str, Path], kept: Path) -> None:
    path = models["int8"] / DATA_FILE
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    try:
        with pytest.raises(InputError, match="sha256"):
            Decoder(models["int8"], threads=1, kernels="q3edge")
    finally:
        path.write_bytes(content)
    assert not list(kept.glob("*/matrices.json"))


def test_packing_makes_room(models: dict[str, Path], kept: Path) -> None:
    Decoder(models["int4"], threads=1, kernels="q3edge")
    (index,) = kept.glob("*/matrices.json")
    for file in index.parent.iterdir():
        os.utime(file, (0, time.time() - (UNUSED_DAYS + 1) * 24 * 3600))
    with progress.report_to(notes := Notes()):
        Decoder(models["int8"], threads=1, kernels="q3edge")
    assert not index.exists()
    assert f"note: {index.parent}: removed, not used for {UNUSED_DAYS} days" in notes.lines
    assert len(list(kept.glob("*/matrices.json"))) == 1


def test_a_place_that_cannot_be_written(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError):
        Decoder(models["int4"], threads=1, kernels="q3edge")
    with progress.report_to(notes := Notes()):
        decoder = Decoder(models["int4"], threads=1, kernels="auto")
    if FOUND is not None and len(FOUND.instruction_sets) > 1:
        assert any("with onnxruntime's kernels" in line for line in notes.lines)
    assert decoder.kernels == "onnxruntime"


def test_packed_weights_that_are_removed_meanwhile(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_packed_products

    def removed(place: Path) -> PackedProducts | None:
        packed = found(place)
        if packed is not None:
            packed.remove()
        return packed

    Decoder(models["int4"], threads=1, kernels="q3edge")
    monkeypatch.setattr(kernels, "read_packed_products", removed)
    with pytest.raises(ResourceError, match=r"matrices\.bin: cannot be mapped, perhaps as it was removed meanwhile"):
        Decoder(models["int4"], threads=1, kernels="q3edge")


def test_what_is_no_choice(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("fast", "auto:portable", "q3edge:sse9"):
        with pytest.raises(UsageError):
            Decoder(models["int4"], threads=1, kernels=wanted)
    monkeypatch.setenv(VARIABLE, "onnxruntime")
    assert Decoder(models["int4"], threads=1).kernels == "onnxruntime"


def test_exact_activations_have_no_kernels_of_ours(models: dict[str, Path], kept: Path) -> None:
    assert Decoder(models["int4"], threads=1, exact_activations=True, kernels="auto").kernels == "onnxruntime"


def test_a_matrix_whose_weights_are_not_at_hand_stays_with_onnxruntime(models: dict[str, Path]) -> None:
    """As where a tensor lies inside the graph, or in a file of another name."""
    model, checked = (models["int4"] / MODEL_FILE).read_bytes(), open_graph(models["int4"])
    every = chosen_kernels("q3edge", model, LentWeights(models["int4"] / DATA_FILE, checked.external_data))
    assert every is not None
    some = [data for data in checked.external_data if data.tensor != every.products[0].codes]
    found = chosen_kernels("q3edge", model, LentWeights(models["int4"] / DATA_FILE, some))
    assert found is not None
    assert found.products == every.products[1:]
    assert chosen_kernels("q3edge", model, LentWeights(models["int4"] / DATA_FILE, [])) is None
