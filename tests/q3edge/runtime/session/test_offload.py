"""Experts that stay on the disk: the same logits, nothing of them on the heap, and what damages or prevents it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
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
from q3edge.runtime.session.packed_experts import expert_bytes
from q3edge.server.models import Models
from q3edge.server.options import ServerOptions
from tests.helpers.models import MOE, write_checkpoint
from tests.helpers.runtime import write_artifact, write_tokenizer

# 8 experts in each of 2 layers: codes and one float32 scale and sum for each group of 32.
WEIGHTS = 2 * 8 * 3 * 32 * 64


class Notes(progress.Silent):
    """Listener that keeps the lines it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


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
    """Folder of what is kept between runs."""
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
        before = {path: path.stat().st_mtime_ns for path in kept.glob("*/*")}
        Decoder(mixtures["int4"], threads=1, offload=True)
        assert {path: path.stat().st_mtime_ns for path in kept.glob("*/*")} == before
        Decoder(mixtures["int8"], threads=1, offload=True)
    assert len(list(kept.iterdir())) == 2
    assert [line.startswith("packing the experts of") for line in notes.lines] == [True, True]


def test_damage_is_found_and_made_good(mixtures: dict[str, Path], kept: Path) -> None:
    expected = logits(Decoder(mixtures["int4"], threads=1, offload=True))
    (path,) = kept.glob("*/experts.bin")
    with path.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(InputError, match="was damaged and is removed; the same command makes it again"):
        Decoder(mixtures["int4"], threads=1, offload=True)
    np.testing.assert_array_equal(logits(Decoder(mixtures["int4"], threads=1, offload=True)), expected)


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
    with pytest.raises(UsageError, match="has no quantized experts that could stay on the disk"):
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
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match=r"packed experts take 0\.0 GB, 0\.0 are free; free space, or set Q3EDGE_"):
        Decoder(mixtures["int4"], threads=1, offload=True)
    assert list(kept.iterdir()) == []


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
    assert "has no quantized experts that could stay on the disk; leave out offload" in refused.stderr
