"""The float checkpoint: whole models read as they are, everything incomplete or suspicious refused by name."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.checkpoint import open_float_model
from q3edge.checkpoint.shards import Shards
from q3edge.checkpoint.source import ModelFolder
from q3edge.errors import InputError
from tests.helpers.models import MOE, InMemoryWeights, edit_config, fused_experts, tiny_config, write_checkpoint

NORM = "model.norm.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tied two-layer checkpoint in one file."""
    return write_checkpoint(tmp_path / "model")


def edit(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """Load model.safetensors, apply `change` to the dict of tensors, save it again."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def split(folder: Path, shards: int = 3) -> dict[str, str]:
    """Turn the one file into an index and `shards` files; returns the weight_map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {n: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, n in enumerate(sorted(tensors))}
    for file in sorted(set(weight_map.values())):
        save_file({n: tensors[n] for n in tensors if weight_map[n] == file}, folder / file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def refusal(folder: Path) -> str:
    """The message of the InputError on opening, always one line that names the folder."""
    with pytest.raises(InputError) as caught:
        open_float_model(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_every_tensor_is_read_as_it_was_written(tmp_path: Path, tied: bool, sharded: bool) -> None:
    write_checkpoint(tmp_path, seed=3, tie_word_embeddings=tied)
    if sharded:
        split(tmp_path)
    expected = InMemoryWeights.random(seed=3, tie_word_embeddings=tied)
    checkpoint: ModelFolder = open_float_model(tmp_path)
    with checkpoint:
        assert checkpoint.config == expected.config
        assert checkpoint.notices == ()
        assert checkpoint.names() == tuple(tensor_shapes(expected.config))
        for name in checkpoint.names():
            assert_array_equal(checkpoint.read(name), expected.read(name), strict=True)
            assert_array_equal(checkpoint.read(name, slice(5, 9)), expected.read(name)[5:9], strict=True)
            assert checkpoint.dtype(name) == "BF16"
            assert checkpoint.scheme(name) is None
        assert checkpoint.stored_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))
        with pytest.raises(TypeError):
            checkpoint.read_quantized(EMBEDDING)


def test_mixture_of_experts(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, **MOE)
    checkpoint = open_float_model(tmp_path)
    assert checkpoint.read("model.layers.1.mlp.experts.3.down_proj.weight").shape == (64, 32)


def test_experts_saved_as_transformers_saves_them(tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    Qwen3MoeForCausalLM(Qwen3MoeConfig(**tiny_config(**MOE))).save_pretrained(tmp_path)
    assert "num_experts" not in json.loads((tmp_path / "config.json").read_text())  # but num_local_experts
    checkpoint = open_float_model(tmp_path)
    assert checkpoint.config.moe is not None
    assert checkpoint.config.moe.num_experts == MOE["num_experts"]
    assert checkpoint.read("model.layers.1.mlp.experts.7.up_proj.weight").shape == (32, 64)


def test_experts_in_one_tensor_are_read_as_each_experts_own(tmp_path: Path) -> None:
    expected = open_float_model(write_checkpoint(tmp_path / "plain", **MOE))
    fused = write_checkpoint(tmp_path / "fused", **MOE)
    tensors = fused_experts(load_file(fused / "model.safetensors"))
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, fused / "model.safetensors")
    checkpoint = open_float_model(fused)
    for name in tensor_shapes(expected.config):
        assert_array_equal(checkpoint.read(name), expected.read(name), strict=True)
        assert_array_equal(checkpoint.read(name, slice(5, 9)), expected.read(name)[5:9], strict=True)
    assert {n.code: n.count for n in checkpoint.notices}["experts-divided"] == 4


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "experts.gate_up_proj",
            (8, 64, 32),
            r"gate_up_proj\): shape \[8, 64, 32\], config.json asks for \[8, 64, 64\]",
        ),
        ("experts.down_proj", (7, 64, 32), r"down_proj\): shape \[7, 64, 32\], config.json asks for \[8, 64, 32\]"),
        (
            "experts.3.up_proj.weight",
            (32, 64),
            "also there as model.layers.1.mlp.experts.3.up_proj.weight; expected it",
        ),
        ("experts.gate_proj", (8, 32, 64), "do not belong to the model of config.json"),
    ],
)
def test_unfit_experts_in_one_tensor(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    folder = write_checkpoint(tmp_path, **MOE)
    tensors = fused_experts(load_file(folder / "model.safetensors"))
    tensors[f"model.layers.1.mlp.{name}"] = torch.zeros(shape, dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        open_float_model(folder)


def test_files_behind_links_are_read(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"  # as in the hub's cache
    snapshot.mkdir()
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert_array_equal(open_float_model(snapshot).read(NORM), open_float_model(folder).read(NORM))


def test_digest_is_that_of_the_files_and_changes_with_each(folder: Path) -> None:
    split(folder)
    digest = open_float_model(folder).digest()
    names = ["config.json", *(f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3))]
    record = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert digest == hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    edit_config(folder, rms_norm_eps=1e-5)
    assert open_float_model(folder).digest() != digest
    edit_config(folder, rms_norm_eps=1e-6)
    assert open_float_model(folder).digest() == digest


# --- bad inputs 1-2 through a folder ---


def test_bad_input_1_lfs_pointer_in_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "model.safetensors: a Git-LFS pointer" in refusal(folder)


def test_bad_input_2_truncated_shard(folder: Path) -> None:
    shard = folder / split(folder)[NORM]
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-10])
    assert f"{shard.name}: truncated, expected {size} bytes, found {size - 10}" in refusal(folder)


# --- bad inputs 6-11, 13-15 ---


def test_bad_input_6_missing_shards_are_all_listed(folder: Path) -> None:
    split(folder)
    for number in (1, 3):
        (folder / f"model-{number:05}-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "2 of 3 shards are missing: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors" in message


@pytest.mark.parametrize(
    "shard",
    ["//host/share/m.safetensors", "\\\\host\\share\\m.safetensors", "\\\\.\\pipe\\m.safetensors", "CON:.safetensors",
     "./model.safetensors", "a/../../model.safetensors", "file:///etc/m.safetensors", "~/m.safetensors",
     "../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "..\\m.safetensors",
     "C:m.safetensors", "x\0.safetensors", "model.bin", "", 7, None],
)  # fmt: skip
def test_bad_input_7_index_leads_out_of_the_folder(folder: Path, shard: object) -> None:
    weight_map: dict[str, object] = dict(split(folder))
    weight_map[NORM] = shard
    write_index(folder, weight_map)
    message = refusal(folder)
    assert f"({NORM})" in message
    assert "expected a plain *.safetensors name; refused" in message


def test_r14_shard_names_that_no_file_can_have(folder: Path) -> None:
    weight_map: dict[str, object] = dict(split(folder))
    weight_map[NORM] = "x" * 5000 + ".safetensors"
    weight_map[EMBEDDING] = "\ud800.safetensors"
    write_index(folder, weight_map)
    message = refusal(folder)
    assert "2 of 5 shards are missing" in message or "2 of 4 shards are missing" in message
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_bad_input_7_index_without_a_map(folder: Path, weight_map: object) -> None:
    split(folder)
    write_index(folder, weight_map)
    assert "weight_map: expected an object" in refusal(folder)


def test_bad_input_7_index_and_shards_disagree(folder: Path) -> None:
    weight_map = split(folder)
    other = next(file for file in weight_map.values() if file != weight_map[NORM])
    write_index(folder, {**weight_map, NORM: other})
    assert f"1 tensors are not in the shard it names: {NORM}" in refusal(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    weight_map = split(folder)
    other = folder / next(file for file in weight_map.values() if file != weight_map[NORM])
    save_file({**load_file(other), NORM: torch.ones(64).bfloat16()}, other)
    assert f"({NORM}): also in" in refusal(folder)


def test_bad_input_8_missing_tensors(folder: Path) -> None:
    edit(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.1." in name])
    message = refusal(folder)
    assert "11 tensors that config.json asks for are missing: model.layers.1.input_layernorm.weight, " in message
    assert message.count("model.layers.1.") == 10
    assert "and 1 more" in message


def test_bad_input_8_unexpected_tensors(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({f"model.layers.{i}.extra": torch.ones(1) for i in range(12)}))
    message = refusal(folder)
    assert "12 tensors do not belong to the model of config.json: " in message
    assert message.count(".extra") == 10


def test_bad_input_8_shape_and_dtype(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({NORM: torch.ones(65).bfloat16()}))
    assert f"({NORM}): shape [65], config.json asks for [64]" in refusal(folder)
    edit(folder, lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.float64)}))
    assert f"({NORM}): dtype F64, expected BF16 or F16 or F32" in refusal(folder)


def test_bad_input_9_nan_is_found_when_read(folder: Path) -> None:
    def damage(tensors: Tensors) -> None:
        tensors[EMBEDDING][7, 3] = float("nan")
        tensors[EMBEDDING][300, 1] = float("inf")

    checkpoint = open_float_model(edit(folder, damage))
    with pytest.raises(InputError, match=r"model\.safetensors \(model\.embed_tokens\.weight\): 2 of 20480 values"):
        checkpoint.read(EMBEDDING)
    with pytest.raises(InputError, match="1 of 640 values are NaN or infinite"):
        checkpoint.read(EMBEDDING, slice(300, 310))


def test_bad_input_10_names_without_prefix_are_accepted(folder: Path) -> None:
    expected = open_float_model(folder).read(NORM)

    def strip(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    checkpoint = open_float_model(edit(folder, strip))
    assert_array_equal(checkpoint.read(NORM), expected)
    assert [(n.code, n.count) for n in checkpoint.notices] == [("prefix-added", len(checkpoint.names()))]


def test_bad_input_10_both_spellings_at_once(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"norm.weight": tensors[NORM].clone()}))
    assert "expected it once" in refusal(folder)


def test_bad_input_11_tied_with_a_copy_of_the_head(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({LM_HEAD: tensors[EMBEDDING].clone()}))
    checkpoint = open_float_model(folder)
    assert [n.code for n in checkpoint.notices] == ["tied-lm-head-ignored"]
    assert LM_HEAD not in checkpoint.names()


@pytest.mark.parametrize("change", [lambda t: t + 1, lambda t: t.float(), lambda t: t[:5].clone()])
def test_bad_input_11_tied_with_another_head(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    edit(folder, lambda tensors: tensors.update({LM_HEAD: change(tensors[EMBEDDING])}))
    assert f"({LM_HEAD}): differs from {EMBEDDING} although config.json ties them" in refusal(folder)


def test_bad_input_11_untied_without_head(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)
    assert f"({LM_HEAD}): missing, and config.json does not tie it" in refusal(folder)


def test_bad_input_13_other_model_type(folder: Path) -> None:
    edit_config(folder, model_type="llama")
    message = refusal(folder)
    assert "model_type = 'llama': expected one of qwen3, qwen3_moe" in message


def test_bad_input_14_code_in_the_folder_is_never_run(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('imported')")
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    checkpoint = open_float_model(folder)
    assert [(n.code, n.count) for n in checkpoint.notices] == [("remote-code-ignored", 1)]
    assert "modeling_evil.py" in checkpoint.notices[0].detail
    assert "modeling_evil" not in sys.modules


def test_bad_input_15_pytorch_bin_that_is_no_file_of_torch(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin: not a file of torch.save" in refusal(folder)


def test_folders_that_hold_no_model(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json: not found" in refusal(tmp_path / "empty")
    assert "not found; expected a model folder or a hub id" in refusal(tmp_path / "absent")
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors and no model.safetensors.index.json" in refusal(folder)
    with pytest.raises(InputError, match="not found or not a folder"):
        Shards(tmp_path / "absent")


def test_rotary_buffers_are_ignored_with_a_notice(folder: Path) -> None:
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(16) for i in (0, 1)}
    checkpoint = open_float_model(edit(folder, lambda tensors: tensors.update(buffers)))
    assert [(n.code, n.count) for n in checkpoint.notices] == [("rotary-buffers-ignored", 2)]


def test_quantized_checkpoints_of_others_are_refused(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    assert "quantization_config (gptq), but no matrix is stored in that way" in refusal(folder)
    edit_config(folder, quantization_config=None)
    name = "model.layers.0.mlp.up_proj.qweight"
    edit(folder, lambda tensors: tensors.update({name: torch.ones(1, dtype=torch.int32)}))
    assert f"({name}): the checkpoint is quantized already" in refusal(folder)
