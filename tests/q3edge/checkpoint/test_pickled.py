"""Checkpoints in pytorch_model.bin files: the same values as safetensors, and nothing that could run code."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from q3edge.checkpoint import open_float_model, open_quantized_model
from q3edge.errors import InputError
from tests.helpers.models import MOE, fused_experts, write_checkpoint

SINGLE = "pytorch_model.bin"


def pickled(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda tensors: tensors, **config: Any) -> Path:
    """Write a checkpoint and save its tensors, changed, by torch.save instead."""
    write_checkpoint(folder, **config)
    torch.save(change(load_file(folder / "model.safetensors")), folder / SINGLE)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_values_are_those_of_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    def typed(tensors: dict[str, Any]) -> dict[str, Any]:
        turned = (0, -1)  # not contiguous as they are saved
        return {n: t.to(dtype).transpose(*turned).contiguous().transpose(*turned) for n, t in tensors.items()}

    expected = load_file(write_checkpoint(tmp_path / "s") / "model.safetensors")
    with open_float_model(pickled(tmp_path / "b", typed)) as model:
        for name in model.names():
            values = expected[name].to(dtype).float().numpy()
            np.testing.assert_array_equal(model.read(name), values)
            np.testing.assert_array_equal(model.read(name, slice(1, 3)), values[1:3])


def test_shards_with_an_index(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "b")
    tensors = torch.load(folder / SINGLE, weights_only=True)
    names = sorted(tensors)
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in {*files.values()}:
        torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    with open_float_model(folder) as model:
        for name in names:
            np.testing.assert_array_equal(model.read(name), tensors[name].float().numpy())
    os.remove(folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(InputError, match=r"1 of 2 shards are missing: pytorch_model-00002-of-00002\.bin"):
        open_float_model(folder)


def test_a_head_that_shares_the_embeddings_storage_and_fused_experts(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        return {**fused_experts(tensors), "lm_head.weight": tensors["model.embed_tokens.weight"]}

    expected = load_file(write_checkpoint(tmp_path / "s", **MOE) / "model.safetensors")
    with open_float_model(pickled(tmp_path / "b", change, **MOE)) as model:
        assert "tied-lm-head-ignored" in [notice.code for notice in model.notices]
        for name in model.names():
            np.testing.assert_array_equal(model.read(name), expected[name].float().numpy())


class Harmful:
    """Object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_what_could_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "b", lambda tensors: {**tensors, "x": Harmful(tmp_path / "ran")})
    with pytest.raises(InputError, match=r"pytorch_model\.bin: holds other things than tensors.*get the model as"):
        open_float_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {"state_dict": tensors}, r"\('state_dict'\): is a dict; expected tensors by their names"),
        (lambda tensors: [*tensors.values()], "holds a list; expected tensors by their names"),
        (lambda tensors: {}, "holds a dict"),
        (lambda tensors: {**tensors, "model.norm.weight": tensors["model.norm.weight"] * torch.nan}, "NaN"),
        (lambda tensors: {**tensors, "model.norm.weight": torch.ones(64, dtype=torch.int32)}, "norm.*dtype I32"),
        (lambda tensors: {**tensors, "model.norm.weight": torch.ones(64).to_sparse()}, "a sparse, quantized or"),
        (lambda tensors: {**tensors, "model.norm.weight": torch.ones(64, device="meta")}, "bin"),
        (lambda tensors: {k: v for k, v in tensors.items() if k != "model.norm.weight"}, "missing: model.norm.weight"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    folder = pickled(tmp_path / "b", change)
    with pytest.raises(InputError, match=message), open_float_model(folder) as model:
        model.read("model.norm.weight")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "b")
    content = (folder / SINGLE).read_bytes()
    for damaged in (b"", b"PK", content[:100], content[: len(content) // 2], content[:-1], b"\x80\x02}q\x00."):
        (folder / SINGLE).write_bytes(damaged)
        with pytest.raises(InputError, match=r"pytorch_model\.bin"):
            open_float_model(folder)
    generator = np.random.default_rng(0)
    for _ in range(300):
        bytes_ = bytearray(content)
        for place in generator.integers(0, 3000, 4):  # the pickle and the first headers
            bytes_[place] = generator.integers(256)
        (folder / SINGLE).write_bytes(bytes_)
        with suppress(InputError), open_float_model(folder) as model:
            for name in model.names():
                model.read(name)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "b")
    with zipfile.ZipFile(folder / SINGLE) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / SINGLE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=r"compressed, as torch\.save never writes it"):
        open_float_model(folder)


def test_it_is_a_float_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a float checkpoint; expected a quantized one"):
        open_quantized_model(pickled(tmp_path / "b"))
