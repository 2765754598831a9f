"""genai_config.json says what the model's own files say, and onnxruntime-genai runs the folder unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MODEL_FILE
from q3edge.errors import InputError
from q3edge.exporters.genai import GENAI_CONFIG_FILE, write_genai_config
from q3edge.quantization.scheme import Scheme
from tests.helpers.models import tiny_config
from tests.helpers.onnx_models import ExportedDecoder, quantized_model


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


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config\.json"):
        write_genai_config(Qwen3Config.from_dict(tiny_config()), tmp_path)


@pytest.mark.parametrize(
    "scheme", [Scheme(4, 32, symmetric=False), Scheme(8, None, activations="int8_per_token"), None], ids=str
)
def test_onnxruntime_genai_gives_the_same_greedy_tokens(tmp_path: Path, scheme: Scheme | None) -> None:
    """One row, and a right-padded batch of three; genai shares past and present buffers, our loop does not."""
    genai = pytest.importorskip("onnxruntime_genai")
    source = quantized_model(lambda name: Scheme(8, 32) if scheme and "layers" not in name else scheme)
    decoder = ExportedDecoder(source, tmp_path)
    write_genai_config(source.config, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
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
