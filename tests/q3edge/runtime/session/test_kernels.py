"""Kernels of our own in a session: the same logits, weights packed once, and what prevents or damages them."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

import q3edge
from q3edge import progress
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.kernels.choice import VARIABLE
from q3edge.kernels.library import PORTABLE, Library, library
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.session import kept_graph, kept_room, kernels
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.fused_graph import fuse_operators
from q3edge.runtime.session.graph_nodes import Graph
from q3edge.runtime.session.kept_graph import ChangedGraph, read_graph
from q3edge.runtime.session.kernels import FOLDER, PACKING, chosen_kernels
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import open_graph
from q3edge.storage.kept_folder import UNUSED_DAYS, kept_entries, remove_all
from q3edge.storage.whole_files import partial_path
from tests.helpers.models import write_checkpoint
from tests.helpers.notes import Notes
from tests.helpers.runtime import write_artifact, write_tokenizer

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
    q3edge.quantize(folder / "float", folder / "int8.kv8", "int8", method="rtn", kv_cache="int8")
    export_artifact(str(folder / "int8.kv8"), folder / "int8 kv8")
    return {name: folder / name for name in (*FORMATS, "int8 kv8")}


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


@pytest.mark.parametrize("name", ["int4-fast", "int8 kv8"])
def test_a_pass_of_any_rows_gives_the_bits_of_each_row_alone(models: dict[str, Path], kept: Path, name: str) -> None:
    decoder = Decoder(models[name], threads=2, kernels="q3edge")
    assert decoder.any_rows
    random = np.random.default_rng(3)
    cache, size = decoder.new_cache(128, 6), decoder.config.vocab_size
    cache.give_back(2)
    passes = [
        {row: random.integers(2, 320, count).tolist() for row, count in counts.items()}
        for counts in ({0: 5, 4: 30, 1: 1}, {1: 20, 5: 3}, {4: 2, 0: 1, 1: 1, 5: 40})
    ]
    found: dict[int, list[NDArray[np.float32]]] = {row: [] for row in (0, 1, 4, 5)}
    for tokens in passes:
        out = np.zeros((1, sum(map(len, tokens.values())), size), np.float32)
        decoder.forward_rows(tokens, cache, out=out)
        parts = np.split(out[0], np.cumsum([len(ids) for ids in tokens.values()])[:-1])
        for row, part in zip(tokens, parts, strict=True):
            found[row].append(part)
    for row, parts in found.items():
        alone = decoder.new_cache(128)
        for ids, part in zip((tokens[row] for tokens in passes if row in tokens), parts, strict=True):
            assert np.array_equal(part, decoder.forward(np.array([ids]), alone, keep=0)[0])
        assert cache.lengths[row] == alone.lengths[0]


def test_a_pass_of_any_rows_has_the_logits_of_the_last_tokens(models: dict[str, Path], kept: Path) -> None:
    decoder = Decoder(models["int4"], threads=1, kernels="q3edge")
    tokens = {1: [5, 6, 7, 8], 0: [9]}
    every, last = (np.zeros((1, keep, decoder.config.vocab_size), np.float32) for keep in (5, 2))
    for out in (every, last):
        assert decoder.forward_rows(tokens, decoder.new_cache(8, 2), out=out) is out
    assert np.array_equal(last, every[:, 3:])


def test_several_rows_take_several_tokens_behind_pasts_by_our_kernels_alone(
    models: dict[str, Path], kept: Path
) -> None:
    ids = np.arange(4, 34).reshape(3, 10)
    ours, theirs = (Decoder(models["int4"], threads=1, kernels=name) for name in ("q3edge", "onnxruntime"))
    cache, alone = ours.new_cache(64, 3), [ours.new_cache(64) for _ in range(3)]
    for _ in range(2):
        found = ours.forward(ids, cache, counts=[10, 3, 7], keep=0)
        for row, count in enumerate((10, 3, 7)):
            expected = ours.forward(ids[row : row + 1, :count], alone[row], keep=0)
            assert np.array_equal(found[row, :count], expected[0])
    assert cache.lengths == [20, 6, 14]
    assert not theirs.any_rows
    cache = theirs.new_cache(64, 3)
    theirs.forward(ids, cache)
    with pytest.raises(ValueError, match="give one row, or one token each"):
        theirs.forward(ids, cache)


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
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(InputError, match="was damaged and is removed"):
        Decoder(models["int4"], threads=1, kernels="q3edge")
    assert np.array_equal(logits(Decoder(models["int4"], threads=1, kernels="q3edge")), expected)


def test_a_cut_file_or_a_damaged_index_is_made_again(models: dict[str, Path], kept: Path) -> None:
    expected = logits(Decoder(models["int4"], threads=1, kernels="q3edge"))
    for name in ("matrices.bin", "matrices.json"):
        (path,) = kept.glob(f"*/{name}")
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-64])
        assert np.array_equal(logits(Decoder(models["int4"], threads=1, kernels="q3edge")), expected)


def test_the_graph_is_kept_and_made_again_where_it_is_damaged_or_of_other_code(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(Decoder(models["int4"], threads=1, kernels="q3edge"))
    made: list[bytes] = []

    def noted(graph: Graph) -> None:
        fuse_operators(graph)
        made.append(graph.serialized())

    monkeypatch.setattr(kernels, "fuse_operators", noted)

    def start() -> int:
        made.clear()
        assert np.array_equal(logits(Decoder(models["int4"], threads=1, kernels="q3edge")), expected)
        return len(made)

    (path,) = kept.glob("*/graph-*-1.bin")
    content = path.read_bytes()
    assert start() == 0
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        assert (start(), start()) == (1, 0)
    monkeypatch.setattr(kept_graph, "code_digest", lambda *_: "other")
    assert (start(), start()) == (1, 0)
    assert path.read_bytes() != content
    path.unlink()
    path.mkdir()  # it cannot be written
    assert (start(), start()) == (1, 1)


def test_a_graph_is_kept_for_so_many_threads_and_nothing_but_the_usual(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 2):
        Decoder(models["int4"], threads=threads, kernels="q3edge")
    Decoder(models["int4"], threads=3, kernels="onnxruntime")
    Decoder(models["int4"], threads=4, exact_activations=True, kernels="q3edge")
    assert sorted(path.stem.rpartition("-")[2] for path in kept.glob("*/graph-*")) == ["1", "2"]
    assert Decoder(models["int4"], threads=1, exact_activations=True, kernels="q3edge").kernels == "onnxruntime"
    with pytest.raises(UsageError, match="has no quantized experts"):
        Decoder(models["int4"], threads=1, offload=True, kernels="q3edge")


def test_models_that_are_opened_at_the_same_time_read_their_own_matrices(models: dict[str, Path], kept: Path) -> None:
    """The library gives one file of matrices at a time to the operators that are created."""
    expected = {name: logits(Decoder(models[name], threads=1, kernels="q3edge")) for name in ("int4", "int8")}
    with ThreadPoolExecutor(4) as pool:
        names = ["int4", "int8"] * 4
        opened = pool.map(lambda name: Decoder(models[name], threads=1, kernels="q3edge"), names)
        assert all(np.array_equal(logits(decoder), expected[name]) for name, decoder in zip(names, opened, strict=True))


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


def test_a_full_disk_is_told_before_work_begins(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000, total=1000))
    with pytest.raises(ResourceError, match=r"packed weights take 0\.0 GB, 0\.0 are free; free space .*Q3EDGE_"):
        Decoder(models["int4"], threads=1, kernels="q3edge")
    assert not list(kept.glob("*"))


def test_packed_weights_of_another_model_are_made_again(models: dict[str, Path], kept: Path) -> None:
    """Whole folders in each other's places, and a graph alone."""
    ours, places = dict[str, NDArray[np.float32]](), dict[str, Path]()
    for name in ("int4", "int8"):
        ours[name] = logits(Decoder(models[name], threads=1, kernels="q3edge"))
        (places[name],) = set(kept.glob("[!.]*")) - set(places.values())
    (graph,) = places["int4"].glob("graph-*.bin")
    shutil.copy(graph, places["int8"])
    np.testing.assert_array_equal(logits(Decoder(models["int8"], threads=1, kernels="q3edge")), ours["int8"])
    aside = places["int4"].rename(kept.parent / "aside")
    places["int8"].rename(places["int4"])
    aside.rename(places["int8"])
    for name in ours:
        np.testing.assert_array_equal(logits(Decoder(models[name], threads=1, kernels="q3edge")), ours[name])


def test_a_graph_of_a_cpu_with_other_sets_is_made_again(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operators know a set by a number among those of its CPU."""
    Decoder(models["int4"], threads=1, kernels="q3edge")
    (path,) = kept.glob("*/graph-*.bin")
    before = path.read_bytes()
    found = library()
    assert found is not None
    assert read_graph(path, found) is not None
    monkeypatch.setattr(found, "instruction_sets", (*found.instruction_sets, "another"))
    assert read_graph(path, found) is None
    Decoder(models["int4"], threads=1, kernels="q3edge")
    assert path.read_bytes() != before


def test_damage_that_cannot_be_removed_is_told(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Decoder(models["int4"], threads=1, kernels="q3edge")
    (path,) = kept.glob("*/matrices.bin")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)

    def refused(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kept_room, "remove_path", refused)
    with pytest.raises(ResourceError, match=r"is damaged and cannot be removed \(Permission denied\); remove it"):
        Decoder(models["int4"], threads=1, kernels="q3edge")


def test_a_link_in_the_place_of_packed_weights_is_replaced(models: dict[str, Path], kept: Path, tmp_path: Path) -> None:
    Decoder(models["int4"], threads=1, kernels="q3edge")
    (folder,) = kept.glob("[!.]*")
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "nowhere")
    Decoder(models["int4"], threads=1, kernels="q3edge")
    assert folder.is_dir()
    assert not folder.is_symlink()


@pytest.mark.parametrize("times", [1, 2])
def test_packed_weights_that_are_removed_meanwhile_are_packed_once_more(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    expected, mapped, left = logits(Decoder(models["int4"], threads=1, kernels="q3edge")), Library.mapped, [0]

    def removed(found: Library, path: Path, *, copied: int) -> AbstractContextManager[None]:
        if left[0]:
            left[0] -= 1
            remove_all([FOLDER])
        return mapped(found, path, copied=copied)

    monkeypatch.setattr(Library, "mapped", removed)
    for wanted in ("q3edge", "q3edge:portable"):
        left[0] = times
        if times == 1:
            again = Decoder(models["int4"], threads=1, kernels=wanted)
            assert again.kernels.startswith("q3edge (")
            assert wanted != "q3edge" or np.array_equal(logits(again), expected)
        else:
            with pytest.raises(ResourceError, match=r"matrices\.bin: was removed meanwhile; the same command"):
                Decoder(models["int4"], threads=1, kernels=wanted)


def test_packed_weights_that_are_removed_again_and_again_are_told(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FOUND is not None
    if FOUND.instruction_sets[0] == PORTABLE:
        pytest.skip("auto takes onnxruntime's kernels here")

    def removed(_library: Library, path: Path, *, copied: int) -> AbstractContextManager[None]:
        raise FileNotFoundError(2, "No such file", str(path))

    monkeypatch.setattr(Library, "mapped", removed)
    with progress.report_to(notes := Notes()):
        assert Decoder(models["int4"], threads=1, kernels="auto").kernels == "onnxruntime"
    assert "with onnxruntime's kernels, as packed weights cannot be had" in notes.lines[-1]


@pytest.mark.skipif(os.name != "posix", reason="needs the modes of POSIX")
def test_packed_weights_are_read_only_and_can_be_removed(models: dict[str, Path], kept: Path) -> None:
    """A process that maps a file ends where another cuts it."""
    Decoder(models["int4"], threads=1, kernels="q3edge")
    (path,) = kept.glob("*/matrices.bin")
    assert path.stat().st_mode & 0o777 == 0o444
    remove_all([FOLDER])
    assert not kept.exists()


def test_an_entry_says_of_which_model_it_is_and_so_does_the_note(models: dict[str, Path], kept: Path) -> None:
    """Also where the model is opened before it has its name, as `build` does."""
    partial = partial_path(models["int4"])
    models["int4"].rename(partial)
    try:
        with progress.report_to(notes := Notes()):
            Decoder(partial, threads=1, kernels="q3edge")
    finally:
        partial.rename(models["int4"])
    (found,) = kept_entries(FOLDER)
    assert found.of == str(models["int4"])
    assert notes.lines[0].startswith(f"{PACKING} {models['int4']} for")


def test_one_product_is_no_products(models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Decoder(models["int4"], threads=1, kernels="q3edge")

    def with_one(path: Path, library: Library) -> ChangedGraph | None:
        graph = read_graph(path, library)
        return None if graph is None else replace(graph, products=1, experts=1)

    monkeypatch.setattr(kernels, "read_graph", with_one)
    label = Decoder(models["int4"], threads=1, kernels="q3edge").kernels
    assert label.endswith(", 1 product, 1 layer of experts)")


def test_what_is_no_choice(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("fast", "auto:portable", "q3edge:sse9"):
        with pytest.raises(UsageError):
            Decoder(models["int4"], threads=1, kernels=wanted)
    monkeypatch.setenv(VARIABLE, "onnxruntime")
    assert Decoder(models["int4"], threads=1).kernels == "onnxruntime"


def test_kernels_that_were_asked_for_and_fit_nothing_are_told(tmp_path: Path, kept: Path) -> None:
    folder = write_artifact(tmp_path / "float")
    for wanted, told in (("q3edge", 1), ("auto", 0), ("onnxruntime", 0)):
        with progress.report_to(notes := Notes()):
            assert Decoder(folder, threads=1, kernels=wanted).kernels == "onnxruntime"
        assert sum("q3edge's can have none of its products" in line for line in notes.lines) == told


def test_kernels_decide_what_a_saved_prefix_belongs_to(
    models: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values differ by rounding; threads change no bit of them."""
    assert FOUND is not None
    wanted = ("onnxruntime", *(f"q3edge:{name}" for name in FOUND.instruction_sets))
    digests = [Decoder(models["int4"], threads=1, kernels=each).digest for each in wanted]
    assert len(set(digests)) == len(wanted)
    assert Decoder(models["int4"], threads=2, kernels=wanted[1]).digest == digests[1]
    monkeypatch.setattr(Library, "digest", lambda _: "0" * 64)
    assert Decoder(models["int4"], threads=1, kernels=wanted[1]).digest != digests[1]
    assert Decoder(models["int4"], threads=1, kernels=wanted[0]).digest == digests[0]


def test_exact_activations_have_no_kernels_of_ours(models: dict[str, Path], kept: Path) -> None:
    assert Decoder(models["int4"], threads=1, exact_activations=True, kernels="auto").kernels == "onnxruntime"


def test_a_matrix_whose_weights_are_not_at_hand_stays_with_onnxruntime(models: dict[str, Path]) -> None:
    """As where a tensor lies inside the graph, or in a file of another name."""
    model, checked = (models["int4"] / MODEL_FILE).read_bytes(), open_graph(models["int4"])
    every = chosen_kernels("q3edge", model, LentWeights(models["int4"] / DATA_FILE, checked.external_data))
    assert every is not None
    some = [data for data in checked.external_data if data.tensor != every.products[0].matrix.codes]
    found = chosen_kernels("q3edge", model, LentWeights(models["int4"] / DATA_FILE, some))
    assert found is not None
    assert found.products == every.products[1:]
    assert chosen_kernels("q3edge", model, LentWeights(models["int4"] / DATA_FILE, [])) is None
