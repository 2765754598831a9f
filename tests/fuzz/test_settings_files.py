"""Damaged recipes, question files, generation settings and manifests: refused, or read as what stands there."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import Manifest
from q3edge.errors import Q3EdgeError
from q3edge.evaluation.suites.suite_files import read_suites
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, damaged_json, json_bytes, outcome
from tests.helpers.models import tiny_config

CONFIG = Qwen3Config.from_dict(tiny_config())
RECIPE = b"""format = "int4"
group_size = 64
method = "rtn"
kv_cache = "int8"

[[rule]]
match = "model.layers.*.mlp.down_proj"
bits = 8
group_size = 32
symmetric = false
scales = "float16"

[[rule]]
match = "lm_head"
float = true
"""
WORDS = (
    b"2",
    b"4",
    b"8",
    b"3",
    b"-1",
    b"1e400",
    b"true",
    b'"int8"',
    b'"float16"',
    b"[]",
    b"{}",
    b"fit = true",
    b"bits = 4",
    b"float = false",
)
GENERATION = {
    "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1, "max_new_tokens": 64,
    "eos_token_id": [1, 2], "pad_token_id": 0, "suppress_tokens": [5], "transformers_version": "5.0.0",
}  # fmt: skip
QUESTIONS = [
    {"id": "a", "question": "What?", "answer": "this", "area": "knowledge", "language": "en"},
    {"id": "b", "question": "Which?", "choices": ["x", "y", "z"], "answer": "B", "area": "math"},
    {"id": "c", "text": "A text to read.", "area": "knowledge", "language": "en"},
]


def _fitted(recipe: Recipe) -> Mapping[str, Scheme | None]:
    return recipe.for_model(CONFIG).resolve(CONFIG)


def test_recipes(tmp_path: Path) -> None:
    """A recipe that is read and fits a model says the same when it is written and read again."""
    path, again, refused = tmp_path / "recipe.toml", tmp_path / "again.toml", 0
    for index, source in counts("recipe", 1000, 10_000):
        content = RECIPE
        for _ in range(source.randint(1, 2)):
            words = content.split(b" ")
            words[source.randrange(len(words))] = source.choice(WORDS)
            content = b" ".join(words)
        path.write_bytes(damaged_bytes(content, source) if source.random() < 0.5 else content)
        case = f"recipe:{index}"
        recipe = outcome(case, lambda: Recipe.load(path))
        if isinstance(recipe, Q3EdgeError):
            refused += 1
            continue
        tomllib.loads(path.read_text(encoding="utf-8"))
        again.write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.load(again) == recipe, case
        fitted = outcome(case, partial(_fitted, recipe))
        if not isinstance(fitted, Q3EdgeError):
            assert all(scheme is None or scheme.bits in (2, 4, 8) for scheme in fitted.values()), case
    check_refusals(refused)


def test_generation_configs(tmp_path: Path) -> None:
    """Settings that are read are in their ranges, and stop tokens are tokens of the model."""
    refused = 0
    for index, source in counts("generation", 1000, 10_000):
        (tmp_path / "generation_config.json").write_bytes(json_bytes(damaged_json(GENERATION, source), source))
        case = f"generation:{index}"
        found = outcome(case, lambda: checkpoint_settings(tmp_path, CONFIG))
        if isinstance(found, Q3EdgeError):
            refused += 1
            continue
        settings = found.settings
        assert 0 <= settings.temperature < 1e4, case
        assert settings.top_k >= 0, case
        assert 0 < settings.top_p <= 1, case
        assert settings.max_new_tokens > 0, case
        assert all(0 <= token < CONFIG.vocab_size for token in settings.stop_token_ids), case
    check_refusals(refused)


def test_question_files(tmp_path: Path) -> None:
    """No more questions come out than stand in the file."""
    path, refused = tmp_path / "questions.jsonl", 0
    for index, source in counts("questions", 1000, 10_000):
        lines = [
            json_bytes(damaged_json(line, source) if source.random() < 0.5 else line, source) for line in QUESTIONS
        ]
        path.write_bytes(b"\n".join(lines))
        found = outcome(f"questions:{index}", lambda: read_suites([path]))
        if isinstance(found, Q3EdgeError):
            refused += 1
        else:
            assert sum(len(suite.items) for suite in found) <= len(path.read_bytes().splitlines()), index
    check_refusals(refused)


def test_manifests(tmp_path: Path) -> None:
    refused = 0
    Manifest("onnx", "0" * 64, Recipe.for_format("int4").to_json(), metrics={"model_bytes": 5}).save(tmp_path)
    raw = json.loads((tmp_path / "q3edge.json").read_bytes())
    for index, source in counts("manifest", 1000, 10_000):
        (tmp_path / "q3edge.json").write_bytes(json_bytes(damaged_json(raw, source), source))

        def read() -> Manifest:
            manifest = Manifest.load(tmp_path)
            Recipe.from_json(manifest.recipe)
            manifest.verify(tmp_path)
            return manifest

        refused += isinstance(outcome(f"manifest:{index}", read), Q3EdgeError)
    check_refusals(refused)
