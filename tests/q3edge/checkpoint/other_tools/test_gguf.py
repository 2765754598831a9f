"""GGUF checkpoints: values as the gguf package has them, codes, metadata, parts, experts, and damaged files."""

from __future__ import annotations

import json
import struct
from importlib.resources import files
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from q3edge.architecture.tensors import EMBEDDING, LM_HEAD
from q3edge.checkpoint import open_float_model, open_quantized_model
from q3edge.checkpoint.gguf.tokenizer_metadata import write_tokenizer
from q3edge.errors import InputError
from q3edge.library.requests import recipe_for
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.scheme import Scheme
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.gguf_models import random_floats, write_gguf_model
from tests.helpers.models import MOE

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
WIDE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "vocab_size": 64, "eos_token_id": 1,
}  # fmt: skip
DEFAULT = recipe_for(None, None, None, None, None)
KEPT = {
    "Q4_0": Scheme(4, 32, scales="float16"),
    "Q8_0": Scheme(8, 32, scales="float16"),
}


def write(path: Path, kind: str, metadata: dict[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:
    return write_gguf_model(path, random_floats(**overrides), kind, metadata, **overrides)


@pytest.mark.parametrize(
    "kind",
    ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"],
)
def test_values_are_those_of_the_gguf_package(tmp_path: Path, kind: str) -> None:
    expected = write(tmp_path / "m.gguf", kind, **WIDE)
    with open_float_model(tmp_path / "m.gguf") as model:
        assert sorted(model.names()) == sorted(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(model.read(name), values)
            np.testing.assert_array_equal(model.read(name, slice(3, 9)), values[3:9])
        assert model.matrices.get(Q_PROJ) is None or model.matrices[Q_PROJ].scheme == KEPT.get(kind)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_codes_stand_for_the_same_values(tmp_path: Path, kind: str) -> None:
    expected = write(tmp_path / "m.gguf", kind)
    with open_float_model(tmp_path) as model:
        codes = model.matrices[Q_PROJ].codes(slice(3, 70))
        np.testing.assert_array_equal(codes.dequantize(), expected[Q_PROJ][3:70])


def test_quantizing_keeps_the_codes_and_counts_the_others(tmp_path: Path) -> None:
    expected = write(tmp_path / "m.gguf", "Q4_0")
    manifest = quantize_checkpoint(str(tmp_path / "m.gguf"), tmp_path / "q", DEFAULT)
    kept = {notice.code: notice.detail for notice in manifest.notices}["codes-kept"]
    assert kept == "codes kept: 15 of 15 matrices, as they are stored (GGUF Q4_0)"
    with open_quantized_model(tmp_path / "q") as model:
        for name, values in expected.items():
            np.testing.assert_array_equal(model.read(name), values)
    write(tmp_path / "other.gguf", "Q5_0")
    manifest = quantize_checkpoint(str(tmp_path / "other.gguf"), tmp_path / "p", DEFAULT)
    (notice,) = (notice for notice in manifest.notices if notice.code == "dequantized")
    assert notice.count == 15
    assert "matrices of GGUF Q5_0 are read as floats and quantized anew (Q5_0 has no codes" in notice.detail


def test_configuration_comes_from_metadata(tmp_path: Path) -> None:
    more = {
        "qwen3.rope.scaling.type": "yarn",
        "qwen3.rope.scaling.factor": 4.0,
        "qwen3.rope.scaling.original_context_length": 256,
        "tokenizer.ggml.eos_token_id": 7,
    }
    write(tmp_path / "m.gguf", "F16", more, tie_word_embeddings=False, rms_norm_eps=1e-6, rope_theta=1e6)
    with open_float_model(tmp_path / "m.gguf") as model:
        config = model.config
    assert not config.tie_word_embeddings
    assert (config.rms_norm_eps, config.rope.theta) == (1e-6, 1e6)
    assert (config.rope.rope_type, config.rope.factor, config.context_length) == ("yarn", 4.0, 1024)
    assert config.eos_token_ids == (7,)


def test_experts_are_taken_apart(tmp_path: Path) -> None:
    expected = write(tmp_path / "m.gguf", "Q8_0", **MOE)
    with open_float_model(tmp_path / "m.gguf") as model:
        assert model.config.moe is not None
        assert model.config.moe.num_experts == 8
        for name, values in expected.items():
            np.testing.assert_array_equal(model.read(name), values)
        name = "model.layers.1.mlp.experts.7.down_proj.weight"
        np.testing.assert_array_equal(model.matrices[name].codes(slice(5, 9)).dequantize(), expected[name][5:9])


def test_a_model_in_parts(tmp_path: Path) -> None:
    expected = write(tmp_path / "whole.gguf", "Q8_0")
    reader = gguf.GGUFReader(tmp_path / "whole.gguf")
    for number in range(2):
        path = tmp_path / "parts" / f"m-0000{number + 1}-of-00002.gguf"
        path.parent.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(path, "qwen3")
        for key, field in reader.fields.items() if number == 0 else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), field.types[0])
        writer.add_uint16("split.count", 2)
        for tensor in reader.tensors[number::2]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    for place in (tmp_path / "parts", tmp_path / "parts" / "m-00002-of-00002.gguf"):
        with open_float_model(place) as model:
            for name, values in expected.items():
                np.testing.assert_array_equal(model.read(name), values)
    (tmp_path / "parts" / "m-00001-of-00002.gguf").unlink()
    with pytest.raises(InputError, match=r"1 of 2 files are missing, such as m-00001-of-00002\.gguf"):
        open_float_model(tmp_path / "parts")


def test_a_folder_of_several_models_is_not_guessed_at(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write(tmp_path / name, "F16")
    with pytest.raises(InputError, match=r"GGUF files of 2 models \(a\.gguf, b\.gguf\); give the path of one file"):
        open_float_model(tmp_path)


def tokenizer_metadata(**more: Any) -> dict[str, Any]:
    document = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    ids = {"bos_token_id": 1275, "eos_token_id": 1277, "padding_token_id": 1275}
    named = {f"tokenizer.ggml.{name}": value for name, value in (ids | more).items()}
    template = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text())["chat_template"]
    return {**write_tokenizer(document, 1290, "t"), **named, "tokenizer.chat_template": template}


def test_the_tokenizer_is_made_of_metadata(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", "Q8_0", tokenizer_metadata(), vocab_size=1290)
    own = Tokenizer.load(DEMO_MODEL, 1290)
    with open_float_model(tmp_path / "m.gguf") as model:
        made = Tokenizer.load(model.side_folder, 1290)
        generation = json.loads((model.side_folder / "generation_config.json").read_text())
        config = json.loads((model.side_folder / "tokenizer_config.json").read_text())
    side_folder = model.side_folder
    assert not side_folder.exists()
    for said in ("What is 2 + 3?", "don't  stop 12345", "\u00e9 e\u0301 \u4f60\u597d \U0001f600", "<think>a<|im_end|>"):
        assert made.encode_text(said) == own.encode_text(said)
        assert made.encode_markup(said) == own.encode_markup(said)
    assert made.special_ids == own.special_ids
    assert made.encode_whole("") == []
    assert generation["eos_token_id"] == [1277, 1275]
    assert (config["eos_token"], config["pad_token"]) == ("<|im_end|>", "<|endoftext|>")


def test_tokens_that_are_added_to_every_text(tmp_path: Path) -> None:
    metadata = tokenizer_metadata(add_eos_token=True, eos_token_id=1275) | {"qwen3.pooling_type": 3}
    write(tmp_path / "m.gguf", "Q8_0", metadata, vocab_size=1290)
    with open_float_model(tmp_path / "m.gguf") as model:
        assert model.config.is_embedding
        assert Tokenizer.load(model.side_folder, 1290).encode_whole("") == [1275]


def test_files_beside_take_the_place_of_metadata(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", "Q8_0", tokenizer_metadata(), vocab_size=1290)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    with open_float_model(tmp_path / "m.gguf") as model:
        assert (model.side_folder / "generation_config.json").read_text() == '{"eos_token_id": 5}'
        assert (model.side_folder / "tokenizer.json").exists()


def test_a_tokenizer_of_another_kind_is_told(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", "Q8_0", tokenizer_metadata(pre="llama-bpe"), vocab_size=1290)
    with open_float_model(tmp_path / "m.gguf") as model:
        assert [notice.code for notice in model.notices] == ["tokenizer-not-made"]
        assert not (model.side_folder / "tokenizer.json").exists()


def test_a_head_of_its_own(tmp_path: Path) -> None:
    expected = write(tmp_path / "m.gguf", "Q8_0", tie_word_embeddings=False)
    with open_float_model(tmp_path / "m.gguf") as model:
        np.testing.assert_array_equal(model.read(LM_HEAD), expected[LM_HEAD])
        assert EMBEDDING in model.matrices


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.type": "adapter"}, "general.type = 'adapter': expected a model's weights"),
        ({"qwen3.rope.scaling.type": "longrope"}, "scaling.type = 'longrope': expected none, linear or yarn"),
        ({"qwen3.pooling_type": 1}, "qwen3.pooling_type = 1: expected 3"),
        ({"qwen3.attention.key_length": 0}, "qwen3.attention.key_length = 0: expected a positive integer"),
        ({"qwen3.block_count": 5}, "33 tensors that the metadata of m.gguf asks for are missing"),
        ({"tokenizer.ggml.eos_token_id": 999}, "eos_token_id = 999: expected token ids"),
        ({"general.alignment": 24}, "general.alignment = 24: expected a power of two"),
        ({"split.count": 3}, "split.count = 3, found 1 files"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_by_its_key(
    tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    write_with_overridden(tmp_path / "m.gguf", metadata)
    with pytest.raises(InputError, match=message):
        open_float_model(tmp_path / "m.gguf")


def write_with_overridden(path: Path, metadata: dict[str, Any]) -> None:
    """Write a model in which keys have other values than the package's own calls give them."""
    made = gguf.GGUFWriter.add_key_value

    def changed(writer: gguf.GGUFWriter, key: str, value: Any, *more: Any, **named: Any) -> None:
        if key not in metadata or value == metadata[key]:
            made(writer, key, value, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_key_value", changed)
        write(path, "F16", metadata)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    gguf_file(tmp_path / "m.gguf", [("general.architecture", "llama")], [("token_embd.weight", (32, 4), 0)])
    with pytest.raises(InputError, match=r"general\.architecture = 'llama': expected one of qwen3, qwen3moe"):
        open_float_model(tmp_path / "m.gguf")


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def gguf_file(
    path: Path, pairs: list[tuple[str, str]], tensors: list[tuple[str, tuple[int, ...], int]], data: int = 512
) -> None:
    """Write a file by hand: texts as metadata, tensors (name, dimensions, number of the type)."""
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, value in pairs:
        content += text(key) + struct.pack("<I", 8) + text(value)
    for name, dimensions, kind in tensors:
        content += text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, 0)
    path.write_bytes(content + bytes(-len(content) % 32 + data))


@pytest.mark.parametrize(
    ("tensors", "data", "message"),
    [
        ([("a", (32, 4), 16)], 512, r"\(a\): type IQ2_XXS, which q3edge does not read; expected one of F32"),
        ([("a", (32, 4), 99)], 512, r"\(a\): type number 99"),
        ([("a", (33, 4), 2)], 512, r"\(a\): rows of 33 values, Q4_0 has blocks of 32"),
        ([("a", (32, 0), 0)], 512, r"\(a\): shape \[0, 32\]"),
        ([("a", (2**40, 2**40), 0)], 512, r"\(a\): shape"),
        ([("a", (2**30, 2**20), 0)], 512, "truncated, expected"),
        ([("a", (32, 4), 0)], 500, "truncated, expected"),
        ([("a", (32, 4), 0)], 4096, "bytes after the last tensor"),
        ([("a", (1, 1, 1, 1, 1), 0)], 512, r"\(a\): 5 dimensions"),
        ([("a", (32, 4), 0), ("a", (32, 4), 0)], 512, r"\(a\): there twice"),
        ([("a", (32, 4), 0), ("b", (32, 4), 0)], 1024, r"\(b\): data at 0, expected 512"),
    ],
)
def test_damaged_tensors_are_refused(tmp_path: Path, tensors: Any, data: int, message: str) -> None:
    gguf_file(tmp_path / "m.gguf", [("general.architecture", "qwen3")], tensors, data)
    with pytest.raises(InputError, match=message):
        open_float_model(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"GG", "not a GGUF file"),
        (b"version https://git-lfs", "a Git-LFS pointer"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF, version 1; expected version 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF, big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors and 0 keys; the file is damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50), "a key of 1125899906842624 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**60), "value of 'k' needs"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**60), "value of 'k' needs"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "is a list of type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"\xff") + struct.pack("<I", 77), "a key is not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + struct.pack("<IB", 0, 1)), "key 'k' twice"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_float_model(tmp_path / "m.gguf")


def spoil_first_block(path: Path, place: int) -> None:
    """Make the float16 number at byte `place` of the query projection's first block NaN."""
    (tensor,) = (found for found in gguf.GGUFReader(path).tensors if found.name == "blk.0.attn_q.weight")
    content = bytearray(path.read_bytes())
    place += tensor.data_offset
    content[place : place + 2] = np.float16("nan").tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "place"),
    [("F16", 0), ("Q4_0", 0), ("Q4_1", 0), ("Q4_1", 2), ("Q8_0", 0), ("Q5_0", 0), ("Q6_K", 208)],
)
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, kind: str, place: int) -> None:
    write(tmp_path / "m.gguf", kind, **WIDE)
    spoil_first_block(tmp_path / "m.gguf", place)
    with (
        pytest.raises(InputError, match=r"(q_proj|attn_q)\.weight.*NaN or infinite"),
        open_float_model(tmp_path / "m.gguf") as model,
    ):
        model.read(Q_PROJ)
