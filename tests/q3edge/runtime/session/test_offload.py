"""Experts that stay on the disk: the same logits, nothing of them on the heap, and what damages or prevents it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from q3edge import progress
from q3edge.artifact import DATA_FILE, MODEL_FILE, Manifest
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.session import offload
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.expert_graph import alone, expert_operators
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.session.packed_experts import PackedExperts, expert_bytes, pack_experts
from q3edge.server.models import Models
from q3edge.server.options import ServerOptions
from q3edge.storage.kept_folder import UNUSED_DAYS
from tests.helpers.models import MOE, write_checkpoint
from tests.helpers.notes import Notes
from tests.helpers.runtime import write_artifact, write_tokenizer

# 8 experts in each of 2 layers: codes and one float32 scale and sum for each group of 32.
WEIGHTS = 2 * 8 * 3 * 32 * 64


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random mixture of experts, exported in several formats."""
    folder = tmp_path_factory.mktemp("mixtures")
    write_tokenizer(write_checkpoint(folder / "float", **MOE))
    return {name: exported(folder, name, Recipe.for_format(name)) for name in ("int4", "int8")}


def exported(folder: Path, name: str, recipe: Recipe) -> Path:
    quantize_checkpoint(str(folder / "float"), folder / f"{name}.quantized", recipe)
    export_artifact(str(folder / f"{name}.quantized"), folder / name)
    return folder / name


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of what is kept between runs, of which sessions' own kernels are no part here."""
    monkeypatch.setenv("Q3EDGE_KERNELS", "onnxruntime")
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "experts"


def logits(decoder: Decoder, tokens: int = 40) -> np.ndarray:
    """Logits of a prompt, and of a token behind it."""
    cache = decoder.new_cache(tokens + 1)
    ids = np.random.default_rng(0).integers(3, 250, (1, tokens + 1))
    prompt = decoder.forward(ids[:, :tokens], cache, keep=0)
    return np.concatenate([prompt, decoder.forward(ids[:, tokens:], cache)], axis=1)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("format_name", ["int4", "int8"])
def test_logits_are_those_of_experts_in_memory(format_name: str, exact: bool, mixtures: dict[str, Path]) -> None:
    folder = mixtures[format_name]
    expected = logits(Decoder(folder, threads=1, exact_activations=exact, offload=False))
    for _ in range(2):  # made, and found
        found = logits(Decoder(folder, threads=1, exact_activations=exact, offload=True))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_packed_weights_are_mapped(mixtures: dict[str, Path], kept: Path) -> None:
    decoder = Decoder(mixtures["int4"], threads=1, offload=True)
    (folder,) = kept.iterdir()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{folder}/experts.bin" in line]
    sizes = [int(end, 16) - int(begin, 16) for line in mapped for begin, end in [line.split()[0].split("-")]]
    assert sum(sizes) >= WEIGHTS / 2 * 1.25  # codes of 4 bits, and a scale and a sum for each group
    logits(decoder)  # the mappings are those of a session that lives


def test_packed_once_for_the_same_weights(mixtures: dict[str, Path], kept: Path) -> None:
    notes = Notes()
    with progress.report_to(notes):
        Decoder(mixtures["int4"], threads=1, offload=True)
        before = {path: path.stat().st_mtime_ns for path in kept.glob("*/experts.bin")}
        Decoder(mixtures["int4"], threads=1, offload=True)
        assert {path: path.stat().st_mtime_ns for path in kept.glob("*/experts.bin")} == before
        Decoder(mixtures["int8"], threads=1, offload=True)
    assert len(list(kept.iterdir())) == 2
    assert [line.startswith("packing the experts of") for line in notes.lines] == [True, True]


def test_damage_is_found_and_made_good(mixtures: dict[str, Path], kept: Path) -> None:
    expected = logits(Decoder(mixtures["int4"], threads=1, offload=True))
    (path,) = kept.glob("*/experts.bin")
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(InputError, match="was damaged and is removed; the same command makes it again"):
        Decoder(mixtures["int4"], threads=1, offload=True)
    np.testing.assert_array_equal(logits(Decoder(mixtures["int4"], threads=1, offload=True)), expected)


def test_those_of_another_model_are_made_again(mixtures: dict[str, Path], kept: Path) -> None:
    """Whole entries in each other's places."""
    expected = {name: logits(Decoder(folder, threads=1, offload=True)) for name, folder in mixtures.items()}
    one, other = kept.iterdir()
    one.rename(kept.parent / "aside")
    other.rename(one)
    (kept.parent / "aside").rename(other)
    for name, folder in mixtures.items():
        np.testing.assert_array_equal(logits(Decoder(folder, threads=1, offload=True)), expected[name])


def spoil(path: Path, offset: int) -> None:
    """Change one byte."""
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x41
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["scales", "constants", "weights cut", "constants cut", "constants gone"])
def test_what_onnxruntime_does_not_compare_is_compared(what: str, mixtures: dict[str, Path], kept: Path) -> None:
    expected = logits(Decoder(mixtures["int4"], threads=1, offload=True))
    (index,) = kept.glob("*/experts.json")
    parts = json.loads(index.read_text())["value"]["parts"]
    if what == "scales":
        for offset, _, _ in parts["experts.bin"]:
            spoil(index.parent / "experts.bin", offset + 2)
    elif what == "constants":
        offset, length, _ = parts["model.onnx_data"][-1]
        spoil(index.parent / "model.onnx_data", offset + length - 1)
    elif what == "constants gone":
        (index.parent / "model.onnx_data").unlink()
    else:
        path = index.parent / ("experts.bin" if what == "weights cut" else "model.onnx_data")
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
    notes = Notes()
    with progress.report_to(notes):
        found = logits(Decoder(mixtures["int4"], threads=1, offload=True))
    np.testing.assert_array_equal(found, expected)
    assert [line.endswith("is damaged, and is made again") for line in notes.lines] == [False, True]


def test_those_that_nobody_used_for_long_are_removed_when_others_are_packed(
    mixtures: dict[str, Path], kept: Path
) -> None:
    Decoder(mixtures["int4"], threads=1, offload=True)
    (old,) = kept.glob("*/experts.json")
    (leftover := kept / ".other.partial-1").mkdir()
    for days, left in ((UNUSED_DAYS - 1, True), (UNUSED_DAYS + 1, False)):
        for file in old.parent.iterdir():
            os.utime(file, (0, time.time() - days * 24 * 3600))
        for folder in kept.glob("*/"):
            if folder != old.parent:
                shutil.rmtree(folder)
        notes = Notes()
        with progress.report_to(notes):
            Decoder(mixtures["int8"], threads=1, offload=True)
        assert old.exists() == left
        assert not leftover.exists()
        assert any(f"not used for {UNUSED_DAYS} days" in line for line in notes.lines) == (not left)


def test_use_is_marked(mixtures: dict[str, Path], kept: Path) -> None:
    Decoder(mixtures["int4"], threads=1, offload=True)
    (index,) = kept.glob("*/experts.json")
    os.utime(index, (0, 0))
    Decoder(mixtures["int4"], threads=1, offload=True)
    assert index.stat().st_mtime > 0


def test_two_at_once_pack_once(mixtures: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Path] = []

    def pack(place: Path, *rest: Any) -> PackedExperts:
        packed.append(place)
        return pack_experts(place, *rest)

    monkeypatch.setattr(offload, "pack_experts", pack)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(Decoder, mixtures["int4"], threads=1, offload=True) for _ in range(2)]
        first, second = (logits(each.result()) for each in both)
    np.testing.assert_array_equal(first, second)
    assert len(packed) == 1


def test_a_disk_that_fills_up_meanwhile_is_told(
    mixtures: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to write pre-packed blobs to external file")

    monkeypatch.setattr("onnxruntime.InferenceSession", full)
    with pytest.raises(ResourceError, match=r"could not write packed experts there .*; free space"):
        Decoder(mixtures["int4"], threads=1, offload=True)
    assert list(kept.glob("*")) == []


def test_half_written_ones_are_made_again(mixtures: dict[str, Path], kept: Path) -> None:
    Decoder(mixtures["int4"], threads=1, offload=True)
    (path,) = kept.glob("*/experts.json")
    path.write_text(path.read_text()[:-20])
    Decoder(mixtures["int4"], threads=1, offload=True)
    assert [each.name for each in kept.glob(".*")] == []


def test_changed_weights_are_never_packed(mixtures: dict[str, Path], tmp_path: Path, kept: Path) -> None:
    folder = shutil.copytree(mixtures["int4"], tmp_path / "changed")
    with (folder / DATA_FILE).open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(InputError, match=r"sha256|changed"):
        Decoder(folder, threads=1, offload=True)
    assert not list(kept.glob("*/experts.json"))


def test_only_what_does_not_fit_stays_on_the_disk(
    mixtures: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    with progress.report_to(notes):
        for available in (None, 1 << 40):
            monkeypatch.setattr(offload, "available_memory", lambda value=available: value)
            Decoder(mixtures["int4"], threads=1)
        assert not kept.exists()
        assert notes.lines == []
        monkeypatch.setattr(offload, "available_memory", lambda: 1 << 20)
        Decoder(mixtures["int4"], threads=1)
    assert len(list(kept.iterdir())) == 1
    assert "are at hand: its experts stay on the disk" in notes.lines[0]


def test_a_model_without_experts_has_none_to_offload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_artifact(tmp_path / "dense")
    with pytest.raises(UsageError, match="has no quantized experts in onnxruntime's operator"):
        Decoder(folder, threads=1, offload=True)
    monkeypatch.setattr(offload, "available_memory", lambda: 1)
    assert logits(Decoder(folder, threads=1)).shape == (1, 41, 320)


def test_weights_behind_a_link_stay_on_the_disk_too(mixtures: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(mixtures["int4"], tmp_path / "linked")
    (folder / DATA_FILE).unlink()
    (folder / DATA_FILE).symlink_to(mixtures["int4"] / DATA_FILE)
    expected = logits(Decoder(mixtures["int4"], threads=1, offload=False))
    for choice in (True, False):
        np.testing.assert_array_equal(logits(Decoder(folder, threads=1, offload=choice)), expected)


def test_a_full_disk_is_told_before_work_begins(
    mixtures: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000, total=1000))
    with pytest.raises(ResourceError, match=r"packed experts take 0\.0 GB, 0\.0 are free; free space .*Q3EDGE_"):
        Decoder(mixtures["int4"], threads=1, offload=True)
    assert list(kept.glob("*")) == []


def test_a_server_needs_no_memory_for_them(mixtures: dict[str, Path], kept: Path) -> None:
    size = sum(record.size for record in Manifest.load(mixtures["int4"]).files.values())
    options: dict[str, Any] = {"folders": {"mixture": mixtures["int4"]}, "memory_limit": size - WEIGHTS // 2}
    with pytest.raises(UsageError, match="memory_limit"):
        Models(ServerOptions(**options))
    models = Models(ServerOptions(**options, offload=True))

    async def lent() -> bool:
        lease = await models.lease(None)
        lease.release()
        await models.close()
        return lease.config.moe is not None

    assert asyncio.run(lent())
    assert len(list(kept.iterdir())) == 1


def test_operators_are_found_and_counted(mixtures: dict[str, Path]) -> None:
    model = (mixtures["int4"] / MODEL_FILE).read_bytes()
    operators = expert_operators(model)
    assert len(operators) == 2
    assert {operator.bits for operator in operators} == {4}
    found = expert_bytes(model, open_graph(mixtures["int4"]).external_data)
    assert found is not None
    groups = WEIGHTS // operators[0].group_size
    assert (found.stored, found.packed) == (WEIGHTS // 2, WEIGHTS // 2 + 12 * groups)
    for operator in operators:
        assert [each.output for each in expert_operators(alone(model, operator))] == [operator.output]


def test_the_command_says_so_and_answers_alike(mixtures: dict[str, Path], tmp_path: Path) -> None:
    def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        arguments = [folder, "the cat", "--raw", "--temperature", "0", "--max-new-tokens", "8", *flags]
        return subprocess.run(
            [sys.executable, "-m", "q3edge", "run", *map(str, arguments)], capture_output=True, text=True
        )

    expected, found = run(mixtures["int4"], "--no-offload"), run(mixtures["int4"], "--offload")
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout) == (0, expected.stdout)
    assert "packing the experts of" in found.stderr
    assert "packing the experts of" not in expected.stderr
    refused = run(write_artifact(tmp_path / "dense"), "--offload")
    assert refused.returncode == 2
    assert (
        "has no quantized experts in onnxruntime's operator, which alone can stay on the disk; leave out --offload"
        in refused.stderr
    )
