"""The one door: whatever lies at a path is opened by its reader, or refused with what it is and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

from q3edge.architecture.tensors import EMBEDDING, LM_HEAD
from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.checkpoint import Checkpoint, open_float_model, open_model, open_quantized_model
from q3edge.checkpoint.compressed_tensors import QuantizedCheckpoint, QuantizedWriter
from q3edge.checkpoint.opening import FORMATS
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.storage.json_files import read_json_object
from tests.helpers.models import edit_config, write_checkpoint

NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tied two-layer float checkpoint in one file."""
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def quantized(folder: Path, tmp_path: Path) -> Path:
    """The same model with an int8 embedding of zeros."""
    target = tmp_path / "quantized"
    target.mkdir()
    scheme = Scheme(8, 32)
    with open_float_model(folder) as source:
        schemes = {name: scheme if name == EMBEDDING else None for name in source.names()}
        dtypes = {name: source.dtype(name) for name in source.names()}
        with QuantizedWriter(target, read_json_object(folder / "config.json"), schemes, dtypes) as writer:
            codes, scales = np.full((320, 64), 128, np.uint8), np.ones((320, 2), np.float16)
            writer.add(EMBEDDING, QuantizedTensor(codes, scales, None, scheme))
            for name in source.names():
                if schemes[name] is None:
                    writer.add_float(name, source.read(name))
    return target


def refusal(path: Path) -> str:
    """The message of every door, the same one: always one line that names the path."""
    messages = set()
    for door in (open_model, open_float_model, open_quantized_model):
        with pytest.raises(InputError) as caught:
            door(path)
        messages.add(str(caught.value))
    (message,) = messages
    assert str(path) in message
    assert "\n" not in message
    return message


def test_float_and_quantized_models_are_recognised(folder: Path, quantized: Path) -> None:
    with open_model(str(folder)) as opened:
        assert isinstance(opened, Checkpoint)
        assert opened.folder == folder
    with open_model(quantized) as opened:
        assert isinstance(opened, QuantizedCheckpoint)
        assert opened.scheme(EMBEDDING) == Scheme(8, 32)
    with open_quantized_model(quantized) as opened:
        assert isinstance(opened, QuantizedCheckpoint)


def test_who_needs_one_kind_is_not_given_the_other(folder: Path, quantized: Path) -> None:
    with pytest.raises(InputError, match="quantized already; expected float weights, start from the original model"):
        open_float_model(quantized)
    with pytest.raises(InputError, match="a float checkpoint; expected a quantized one, run `q3edge quantize` first"):
        open_quantized_model(folder)


def no_files(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def test_u17_a_quantized_folder_of_ours_is_told_what_makes_an_onnx_model(quantized: Path) -> None:
    Manifest("quantized", "0", {}).save(quantized)
    with pytest.raises(InputError, match=r"quantized already, by q3edge; `q3edge export \S+quantized -o DIR` makes"):
        open_float_model(quantized)


def test_settings_of_compressed_tensors_without_such_weights(folder: Path) -> None:
    weights = {"num_bits": 4, "type": "int", "group_size": 128, "strategy": "group", "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    edit_config(folder, quantization_config={"quant_method": "compressed-tensors", "config_groups": groups})
    for door in (open_model, open_quantized_model, open_float_model):
        with pytest.raises(InputError, match=r"quantization_config \(compressed-tensors\), but no matrix is stored in"):
            door(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [(no_files, "config.json: not found"), (broken_config, "not valid JSON"), (no_weights, "safetensors")],
)
def test_what_is_no_model_is_not_called_a_float_one(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    assert message in refusal(folder)


def test_a_closed_model_refuses(folder: Path) -> None:
    with open_model(folder) as opened:
        opened.read(NORM)
    with pytest.raises(ValueError, match="closed file"):
        opened.read(NORM)


def only_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-q4_k_m.gguf")


def capital_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "M.GGUF")


def capital_onnx(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "model.safetensors").rename(folder / "onnx" / "A.ONNX")


def only_adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}')


def pickled_adapter(folder: Path) -> None:
    no_files(folder)
    (folder / "adapter_model.bin").touch()


def artifact(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / MODEL_FILE).parent.mkdir()
    (folder / MODEL_FILE).touch()
    Manifest("onnx", "0", {}).save(folder)


def foreign_onnx(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "model.safetensors").rename(folder / "onnx" / "model_q4.onnx")


def mlx(folder: Path) -> None:
    settings = {"group_size": 64, "bits": 4, "mode": "affine"}
    edit_config(folder, quantization=settings, quantization_config=settings)


def mlx_newest(folder: Path) -> None:
    edit_config(folder, quantization_config={"group_size": 64, "bits": 4})


def others(name: str | None) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, quantization_config={"quant_method": name, "weight_block_size": [1]})


def old_compressed_tensors(folder: Path) -> None:
    edit_config(folder, compression_config={"quant_method": "sparse"})


@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        (only_gguf, "GGUF", "model-q4_k_m.gguf: not a GGUF file (it begins with"),
        (capital_gguf, "GGUF", "M.GGUF: not a GGUF file"),
        (capital_onnx, "ONNX", "an ONNX model of another tool"),
        (only_adapter, "adapter", "an adapter (LoRA) for Qwen/Qwen3-0.6B, which is not at hand"),
        (pickled_adapter, "adapter", "adapter_config.json: not found"),
        (artifact, "q3edge ONNX", "an ONNX model that q3edge built already; run it with `q3edge run"),
        (foreign_onnx, "ONNX", "an ONNX model of another tool, which q3edge neither reads nor runs; start from the"),
        (mlx_newest, "MLX", "config.json: quantization_config (MLX), but no matrix is stored in that way"),
        (mlx, "MLX", "config.json: quantization_config (MLX), but no matrix is stored in that way"),
        *(
            (others(name), "quantized", f"quantization_config ({name}): the checkpoint is quantized already; expected")
            for name in ("torchao", "hqq", "vptq")
        ),
        (others("fp8"), "FP8", "config.json: weight_block_size [1]: expected two sizes, or null"),
        (others(None), "quantized", "quantization_config (of a method that it does not name): the checkpoint is quan"),
        *(
            (others(name), label, f"config.json: quantization_config ({name}), but no matrix is stored in that way")
            for name, label in {
                "gptq": "GPTQ",
                "awq": "AWQ",
                "auto-round": "AutoRound",
                "bitsandbytes": "bitsandbytes",
            }.items()
        ),
        (old_compressed_tensors, "quantized", "quantization_config (sparse): the checkpoint is quantized already"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, change: Callable[[Path], None], label: str, message: str) -> None:
    change(folder)
    assert message in refusal(folder)
    assert next(known.label for known in FORMATS if known.recognises(folder)) == label


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.GGUF", "empty file"),
        ("model.onnx", "an ONNX model"),
        ("A.ONNX", "an ONNX model"),
        ("model.safetensors", "is a file; expected the model's folder"),
    ],
)
def test_a_single_file(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).touch()
    assert message in refusal(tmp_path / name)


def test_unquantized_mlx_folders_are_float_models(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "mlx"})
    with open_float_model(folder) as opened:
        assert opened.notices == ()


@pytest.mark.parametrize(
    ("wrapped", "notices"),
    [
        ("module.{}", [("prefix-replaced", 25)]),
        ("_orig_mod.{}", [("prefix-replaced", 25)]),
        ("_fsdp_wrapped_module.{}", [("prefix-replaced", 25)]),
        ("module._orig_mod.{}", [("prefix-replaced", 25), ("prefix-replaced", 25)]),
        ("base_model.model.{}", [("prefix-replaced", 25)]),
        ("language_model.{}", [("prefix-replaced", 25)]),
        ("model.{}", [("prefix-replaced", 25)]),
        ("wrapped.net.{}", [("prefix-replaced", 25)]),
        ("base_model.model._orig_mod.{}", [("prefix-replaced", 25), ("prefix-replaced", 25)]),
    ],
)
def test_l12_prefixes_of_wrappers_are_taken_away(folder: Path, wrapped: str, notices: list[tuple[str, int]]) -> None:
    edit_config(folder, tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    tensors[LM_HEAD] = tensors[EMBEDDING] + 1
    save_file({wrapped.format(name): values for name, values in tensors.items()}, folder / "model.safetensors")
    with open_float_model(folder) as opened:
        assert [(notice.code, notice.count) for notice in opened.notices] == notices
        for name, values in tensors.items():
            assert_array_equal(opened.read(name), values.float().numpy())
            assert opened.dtype(name) == "BF16"


@pytest.mark.parametrize(
    ("old", "new", "notices"),
    [
        ("model.layers.", "model._orig_mod.layers.", {"_orig_mod.": 22}),
        (".self_attn.", "._checkpoint_wrapped_module.self_attn._fsdp_wrapped_module.",
         {"_checkpoint_wrapped_module.": 12, "_fsdp_wrapped_module.": 12}),
        ("model.", "backbone.", {"backbone.": 24, "": 24}),
        ("model.", "", {"": 24}),
    ],
)  # fmt: skip
def test_l12_names_of_wrapped_parts(folder: Path, old: str, new: str, notices: dict[str, int]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name.replace(old, new, 1): values for name, values in tensors.items()}, folder / "model.safetensors")
    with open_float_model(folder) as opened:
        assert [notice.count for notice in opened.notices] == list(notices.values())
        for prefix, notice in zip(notices, opened.notices):
            assert (f"the prefix {prefix!r} " if prefix else "without the prefix 'model.'") in notice.detail
        for name, values in tensors.items():
            assert_array_equal(opened.read(name), values.float().numpy())


def test_l12_two_embeddings_are_no_prefix(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    both = {f"{part}.{name}": values.clone() for part in ("a", "b") for name, values in tensors.items()}
    save_file(both, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"has none of the 24 tensors .*, but a\.model"):
        open_float_model(folder)


def test_the_language_part_of_a_newer_vision_model(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("model.", "model.language_model.", 1): values for name, values in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    with open_float_model(folder) as opened:
        (notice,) = opened.notices
        assert notice.detail == "24 tensors with the prefix 'model.language_model.' were read as if it were 'model.'"
        assert_array_equal(opened.read(NORM), tensors[NORM].float().numpy())


def test_adapters_that_are_not_merged_are_no_prefix(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    wrapped = {f"base_model.model.{name}": values for name, values in tensors.items()}
    wrapped["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(8, 64)
    save_file(wrapped, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"1 tensors do not belong .*merge adapters first"):
        open_float_model(folder)


def test_two_spellings_of_one_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"module.{NORM}": tensors[NORM].clone()}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"also there as .*expected it once"):
        open_float_model(folder)


def test_names_of_something_else_altogether(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({f"blk.{number}": values for number, values in enumerate(tensors.values())}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"has none of the 24 tensors .*, but blk\.0, .* 14 more"):
        open_float_model(folder)


def test_l12_an_index_may_name_a_tied_head_that_no_file_has(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = [*load_file(folder / "a.safetensors"), LM_HEAD]
    index = {"weight_map": dict.fromkeys(names, "a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_float_model(folder) as opened:
        assert [(notice.code, notice.count) for notice in opened.notices] == [("index-names-absent", 1)]
        assert LM_HEAD in opened.notices[0].detail
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"\(lm_head\.weight\): missing, and config\.json does not tie it"):
        open_float_model(folder)
