"""Whatever reads a file that people give: a pipe, a device or a name of 300 characters is one line, never a wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.calibration.data import load_token_file
from q3edge.calibration.data.files import open_sources
from q3edge.checkpoint.safetensors.file import SafetensorsFile
from q3edge.errors import InputError, describe_error
from q3edge.evaluation.distance.windows import read_texts
from q3edge.evaluation.suites.suite_files import read_suite
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.text.template_file import read_template
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.storage.json_files import read_json_object

READERS: dict[str, Callable[[Path], object]] = {
    "recipe.toml": Recipe.load,
    "suite.toml": read_suite,
    "questions.jsonl": read_suite,
    "text.txt": lambda path: read_texts([path]),
    "calibration.jsonl": lambda path: open_sources([path]),
    "tokens.npy": lambda path: load_token_file(path, 320, 64),
    "scorecard.json": read_json_object,
    "model.safetensors": SafetensorsFile,
    "config.json": lambda path: Qwen3Config.load(path.parent),
    "tokenizer.json": lambda path: Tokenizer.load(path.parent, 320),
    "chat_template.jinja": lambda path: read_template(path.parent),
    "tokenizer_config.json": lambda path: read_template(path.parent),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("device", [False, True])
def test_r14_a_pipe_or_a_device_is_refused(tmp_path: Path, name: str, device: bool) -> None:
    path = tmp_path / name
    if device:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_r14_a_long_name_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises((InputError, OSError)) as caught:
        READERS[name](tmp_path / ("x" * 300) / name)
    text, code = describe_error(caught.value)
    assert code in (2, 3)
    assert "too long" in text


@pytest.mark.parametrize("reader", [Recipe.load, read_suite])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = " + "[" * 100_000, "too deeply nested"),
        ("a = " + "9" * 5000, "Exceeds the limit"),
        ("a = " + "[" * 5000 + "]" * 5000, "too deeply nested"),
    ],
)
def test_r14_deep_or_huge_toml(tmp_path: Path, reader: Callable[[Path], object], text: str, problem: str) -> None:
    (tmp_path / "file.toml").write_text(text)
    with pytest.raises(InputError, match=rf"file\.toml: not valid TOML \({problem}") as caught:
        reader(tmp_path / "file.toml")
    assert len(str(caught.value)) < 1000
