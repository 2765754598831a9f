"""genai_config.json says what the model's own files say, and onnxruntime-genai runs the folder unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MODEL_FILE
from q3edge.artifact.side_files import GENAI_CONFIG_FILE
from q3edge.errors import InputError
from q3edge.exporters.genai import write_genai_config
from q3edge.quantization.scheme import Scheme
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import MOE, tiny_config
from tests.helpers.onnx_models import ExportedDecoder, quantized_model
from tests.helpers.runtime import seal, write_tokenizer


def written(folder: Path, generation: dict[str, Any] | None = None, **overrides: Any) -> dict[str, Any]:
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    write_genai_config(Qwen3Config.from_dict(tiny_config(**overrides)), folder)
    config: dict[str, Any] = json.loads((folder / GENAI_CONFIG_FILE).read_text())
    return config


def test_the_shape_of_the_model(tmp_path: Path) -> None:
    model = written(tmp_path)["model"]
    decoder = model["decoder"]
    assert (model["type"], model["vocab_size"], model["context_length"]) == ("qwen3", 320, 512)
    assert (decoder["filename"], decoder["head_size"], decoder["hidden_size"]) == (MODEL_FILE, 32, 64)
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"], decoder["num_hidden_layers"]) == (4, 2, 2)


def test_generation_config_decides_sampling_and_tokens(tmp_path: Path) -> None:
    generation = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "eos_token_id": [7, 1],
        "pad_token_id": 9,
    }
    config = written(tmp_path, generation)
    chosen = {name: config["search"][name] for name in ("do_sample", "temperature", "top_k", "top_p")}
    assert chosen == {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert config["model"]["eos_token_id"] == [7, 1]
    assert config["model"]["pad_token_id"] == 9
    assert "bos_token_id" not in config["model"]


def test_without_generation_config_it_is_greedy_with_the_tokens_of_config_json(tmp_path: Path) -> None:
    config = written(tmp_path, eos_token_id=[5, 6], pad_token_id=None, bos_token_id=3)
    assert config["search"]["do_sample"] is False
    assert config["search"]["max_length"] == 512
    model = config["model"]
    assert (model["eos_token_id"], model["pad_token_id"], model["bos_token_id"]) == ([5, 6], 5, 3)


def test_l7_l8_and_l20_settings_are_those_of_the_runtime(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    generation = {
        "do_sample": True, "temperature": None, "top_p": None, "eos_token_id": None, "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3, "min_length": 7, "max_length": 100,
    }  # fmt: skip
    config = written(tmp_path, generation)
    expected = {
        "do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3, "min_length": 7, "max_length": 100,
    }  # fmt: skip
    assert {name: config["search"][name] for name in expected} == expected
    assert None not in config["search"].values()
    assert config["model"]["eos_token_id"] == [1, 283]  # of config.json, and <|im_end|> of tokenizer_config.json


def test_l7_settings_that_genai_does_not_have_are_notices(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"suppress_tokens": [5], "stop_strings": "x", "num_beams": 2}')
    found = write_genai_config(Qwen3Config.from_dict(tiny_config()), tmp_path)
    assert [(notice.code, notice.count) for notice in found] == [
        ("generation-setting-ignored", 1), ("genai-setting-missing", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "generation",
    [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"min_length": 24, "eos_token_id": [*range(2, 250)]}],
)
def test_l7_genai_and_the_runtime_give_the_same_text_with_penalties(tmp_path: Path, generation: dict[str, Any]) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    source = quantized_model(lambda _: None)
    ExportedDecoder(source, tmp_path)
    write_genai_config(source.config, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    seal(tmp_path)
    prompt = np.random.default_rng(4).integers(2, 320, 9).tolist()
    own = checkpoint_settings(tmp_path, source.config).settings.override(max_new_tokens=30)
    expected = list(generate(Decoder(tmp_path, threads=1), prompt, own))
    parameters = genai.GeneratorParams(genai.Model(str(tmp_path)))
    parameters.set_search_options(max_length=9 + 30)
    generator = genai.Generator(genai.Model(str(tmp_path)), parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    found = [int(token) for token in generator.get_sequence(0)[9:]]
    assert [token for token in found if token not in (own.stop_token_ids or ())] == expected


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config\.json"):
        write_genai_config(Qwen3Config.from_dict(tiny_config()), tmp_path)


@pytest.mark.parametrize("overrides", [{}, MOE], ids=["dense", "experts"])
@pytest.mark.parametrize(
    "scheme", [Scheme(4, 32, symmetric=False), Scheme(8, None, activations="int8_per_token"), None], ids=str
)
def test_onnxruntime_genai_gives_the_same_greedy_tokens(
    tmp_path: Path, scheme: Scheme | None, overrides: dict[str, Any]
) -> None:
    """One row, and a right-padded batch of three; genai shares past and present buffers, our loop does not."""
    genai = pytest.importorskip("onnxruntime_genai")

    def scheme_for(name: str) -> Scheme | None:
        if name.endswith(".mlp.gate.weight"):
            return None
        return Scheme(8, 32) if scheme and "layers" not in name else scheme

    source = quantized_model(scheme_for, **overrides)
    decoder = ExportedDecoder(source, tmp_path)
    write_genai_config(source.config, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(**overrides)))
    model = genai.Model(str(tmp_path))
    prompts = [list(np.random.default_rng(n).integers(2, 320, n)) for n in (9, 4, 6)]
    expected = [greedy(decoder, prompt, 8) for prompt in prompts]

    def generate(rows: list[list[int]]) -> list[list[int]]:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=40, batch_size=len(rows))
        generator = genai.Generator(model, parameters)
        width, pad = max(map(len, rows)), source.config.pad_token_id
        generator.append_tokens(np.array([[*row, *[pad] * (width - len(row))] for row in rows], np.int32))
        for _ in range(8):
            generator.generate_next_token()
        return [[int(token) for token in generator.get_sequence(i)[width:]] for i in range(len(rows))]

    assert generate(prompts[:1]) == expected[:1]
    assert generate(prompts) == expected


def greedy(decoder: ExportedDecoder, prompt: list[int], count: int) -> list[int]:
    ids, past, tokens = np.array([prompt], np.int64), None, []
    for _ in range(count):
        logits, past = decoder.step(ids, past=past)
        tokens.append(int(logits[0, -1].argmax()))
        ids = np.array([[tokens[-1]]])
    return tokens
