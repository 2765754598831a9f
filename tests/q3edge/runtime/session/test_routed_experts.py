"""Experts by kernels of our own in a session: the same logits as by onnxruntime's, from memory and from the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from q3edge import progress
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError
from q3edge.kernels.library import library
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.session import kernels
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.graph_nodes import Graph
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.session.routed_graph import routed_experts
from tests.helpers.models import MOE, write_checkpoint
from tests.helpers.notes import Notes
from tests.helpers.runtime import write_tokenizer

FOUND = library()
SETS = FOUND.instruction_sets if FOUND else ()
FORMATS = ("int4", "int4-fast", "int8", "int8-dynamic")
pytestmark = pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random mixture of experts in several formats, and one whose shares are of all experts."""
    folder = tmp_path_factory.mktemp("mixtures")
    write_tokenizer(write_checkpoint(folder / "float", **MOE))
    write_tokenizer(write_checkpoint(folder / "shares", **MOE | {"norm_topk_prob": False}))
    found = {name: exported(folder, "float", name) for name in FORMATS}
    return {**found, "shares": exported(folder, "shares", "int4")}


def exported(folder: Path, source: str, format_name: str) -> Path:
    quantized, made = folder / f"{source}.{format_name}.quantized", folder / f"{source}.{format_name}"
    quantize_checkpoint(str(folder / source), quantized, Recipe.for_format(format_name))
    export_artifact(str(quantized), made)
    return made


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of what is kept between runs."""
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def logits(decoder: Decoder, tokens: int = 40) -> NDArray[np.float32]:
    """Logits of a prompt, and of a token behind it."""
    cache = decoder.new_cache(tokens + 1)
    ids = np.random.default_rng(0).integers(3, 250, (1, tokens + 1))
    prompt = decoder.forward(ids[:, :tokens], cache, keep=0)
    return np.concatenate([prompt[0], decoder.forward(ids[:, tokens:], cache)[0]])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("model", [*FORMATS, "shares"])
def test_logits_are_those_of_onnxruntimes_kernels(mixtures: dict[str, Path], model: str, name: str) -> None:
    """But for tokens whose activations lie between two codes, or between two experts."""
    expected = logits(Decoder(mixtures[model], threads=1, kernels="onnxruntime"))
    decoder = Decoder(mixtures[model], threads=1, kernels=f"q3edge:{name}")
    assert decoder.kernels.endswith(", 2 layers of experts)")
    apart = np.abs(logits(decoder) - expected).max(-1) / np.abs(expected).max()
    assert np.median(apart) < 0.005
    assert np.quantile(apart, 0.8) < 0.05


def test_threads_change_no_bit(mixtures: dict[str, Path]) -> None:
    one, three = (logits(Decoder(mixtures["int4"], threads=threads, kernels="q3edge")) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_a_second_start_has_the_same_experts_and_logits(mixtures: dict[str, Path], kept: Path) -> None:
    """From the graph that the first one kept."""
    first, second = (Decoder(mixtures["int4"], threads=1, kernels="q3edge") for _ in range(2))
    assert len(list(kept.glob("*/*/graph-*.bin"))) == 1
    assert second.kernels == first.kernels
    np.testing.assert_array_equal(logits(second), logits(first))


def test_one_token_alone_has_the_same_experts(mixtures: dict[str, Path]) -> None:
    """A prompt's last token behind the others in one pass, and alone: attention alone may round otherwise."""
    decoder = Decoder(mixtures["int4"], threads=2, kernels="q3edge")
    ids = np.random.default_rng(1).integers(3, 250, (1, 20))
    whole = decoder.forward(ids, decoder.new_cache(20))
    cache = decoder.new_cache(20)
    decoder.forward(ids[:, :-1], cache)
    alone = decoder.forward(ids[:, -1:], cache)
    assert np.abs(alone - whole).max() < 0.05 * np.abs(whole).max()


def test_from_the_disk_logits_are_the_same(mixtures: dict[str, Path], kept: Path) -> None:
    """From one file, of which onnxruntime packs nothing."""
    with progress.report_to(notes := Notes()):
        expected = logits(Decoder(mixtures["int4"], threads=1, kernels="q3edge", offload=False))
        on_disk = Decoder(mixtures["int4"], threads=1, kernels="q3edge", offload=True)
        np.testing.assert_array_equal(logits(on_disk), expected)
    assert not (kept / "experts").exists()
    assert [line.startswith(kernels.PACKING) for line in notes.lines] == [True]
    if sys.platform == "linux":
        (path,) = kept.glob("*/*/matrices.bin")
        assert str(path) in Path("/proc/self/maps").read_text()
        assert on_disk.kernels.startswith("q3edge")


def test_what_memory_does_not_hold_is_said(mixtures: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(Decoder(mixtures["int4"], threads=1, kernels="q3edge"))
    for offload, said in ((None, True), (False, False)):
        monkeypatch.setattr(kernels, "free_memory", lambda: 1000)
        with progress.report_to(notes := Notes()):
            np.testing.assert_array_equal(
                logits(Decoder(mixtures["int4"], threads=1, kernels="q3edge", offload=offload)), expected
            )
        assert any("its experts stay on the disk" in line for line in notes.lines) == said


@pytest.mark.parametrize("offload", [False, True])
def test_damage_is_found_and_mended(mixtures: dict[str, Path], kept: Path, offload: bool) -> None:
    expected = logits(Decoder(mixtures["int4"], threads=1, kernels="q3edge"))
    (path,) = kept.glob("*/*/matrices.bin")
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)  # within the last expert
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(InputError, match="was damaged and is removed"):
        Decoder(mixtures["int4"], threads=1, kernels="q3edge", offload=offload)
    np.testing.assert_array_equal(logits(Decoder(mixtures["int4"], threads=1, kernels="q3edge")), expected)


def test_exact_activations_have_onnxruntimes_experts(mixtures: dict[str, Path]) -> None:
    assert Decoder(mixtures["int8"], threads=1, exact_activations=True).kernels == "onnxruntime"


@pytest.mark.parametrize(
    "change",
    [
        {"swiglu_limit": 7.0}, {"activation_beta": 1.0}, {"activation_alpha": 1.702}, {"activation_type": "silu"},
        {"accuracy_level": 0}, {"swiglu_fusion": 2}, {"weights_prepacked": 1}, {"k": 9}, {"block_size": 0},
        {"quant_type": "fp4"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_they_do_not_compute_stays_with_onnxruntime(mixtures: dict[str, Path], change: dict[str, Any]) -> None:
    """All of them, if one layer is another."""
    found = onnx.load(str(mixtures["int4"] / MODEL_FILE), load_external_data=False)
    lent = LentWeights(mixtures["int4"] / DATA_FILE, open_graph(mixtures["int4"]).external_data)
    assert len(routed_experts(Graph(found.SerializeToString()), lent)) == 2
    node = next(node for node in found.graph.node if node.op_type == "QMoE")
    kept = [attribute for attribute in node.attribute if attribute.name not in change]
    del node.attribute[:]
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(name, value) for name, value in change.items())])
    assert routed_experts(Graph(found.SerializeToString()), lent) == ()


def test_experts_whose_weights_are_not_at_hand_stay_with_onnxruntime(mixtures: dict[str, Path]) -> None:
    data = open_graph(mixtures["int4"]).external_data
    graph = Graph((mixtures["int4"] / MODEL_FILE).read_bytes())
    some = [each for each in data if not each.tensor.endswith("experts.down_proj.codes")]
    assert len(some) == len(data) - 2
    assert routed_experts(graph, LentWeights(mixtures["int4"] / DATA_FILE, some)) == ()
