"""A finished model in optimum-onnx: transformers generates what q3edge does, and what cannot run is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import q3edge
from q3edge.errors import InputError, ResourceError
from q3edge.integrations.optimum import load
from q3edge.runtime.generation.settings import GenerationSettings

DEMO_MODEL = Path(q3edge.__file__).parent / "data" / "demo_model"
PROMPT = "What is the capital of Japan?"
INSTALLED = importlib.util.find_spec("optimum") is not None
needs_optimum = pytest.mark.skipif(not INSTALLED, reason="optimum-onnx is not installed (extra optimum)")


@pytest.fixture(scope="module", params=["int4", "int8-dynamic"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model: the width of its heads, 64, is not hidden_size / num_attention_heads."""
    home = tmp_path_factory.mktemp("demo")
    q3edge.quantize(DEMO_MODEL, home / "q", request.param, method="rtn")
    q3edge.export(home / "q", home / "onnx")
    return home / "onnx"


@needs_optimum
def test_generate_gives_the_tokens_that_q3edge_gives(folder: Path) -> None:
    import torch

    with q3edge.load(folder, threads=1, speculate=False) as own:
        ids = own.tokenizer.encode_markup(f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n")
        expected = own.generate(ids, GenerationSettings(max_new_tokens=24)).token_ids
    model = load(folder)
    assert model.config.head_dim != model.config.hidden_size // model.config.num_attention_heads
    given = torch.tensor([ids])
    found = model.generate(
        input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=24, do_sample=False,
        temperature=None, top_k=None, top_p=None,
    )  # fmt: skip
    assert found[0, len(ids) :].tolist()[: len(expected)] == list(expected)


@needs_optimum
def test_transformers_pipeline_takes_it(folder: Path) -> None:
    from transformers import AutoTokenizer, pipeline

    writer = pipeline("text-generation", model=load(folder), tokenizer=AutoTokenizer.from_pretrained(folder))
    said = writer([{"role": "user", "content": PROMPT}], max_new_tokens=60, do_sample=False)
    assert "Tokyo" in said[0]["generated_text"][-1]["content"]


@needs_optimum
def test_a_damaged_folder_is_refused_before_optimum_sees_it(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    data = copy / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx_data"):
        load(copy)


@needs_optimum
def test_an_int8_cache_is_refused(tmp_path: Path) -> None:
    q3edge.quantize(DEMO_MODEL, tmp_path / "q", "int8", method="rtn", kv_cache="int8")
    q3edge.export(tmp_path / "q", tmp_path / "onnx")
    with pytest.raises(InputError, match=r"has an int8 KV cache, .*; build it with --kv float32"):
        load(tmp_path / "onnx")


@pytest.mark.skipif(INSTALLED, reason="optimum is installed")
def test_without_optimum_the_way_to_install_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"this needs optimum-onnx, .*pip install .*\[optimum\]"):
        load(tmp_path)
