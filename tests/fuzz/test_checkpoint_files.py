"""Damaged safetensors headers, indexes and configurations: refused, or read as the format's own library reads them."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact.sentence_files import SENTENCE_FILES, query_prompt, stated_kind
from q3edge.checkpoint import open_model
from q3edge.checkpoint.safetensors.file import SafetensorsFile
from q3edge.errors import InputError, Q3EdgeError
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, damaged_json, json_bytes, outcome
from tests.helpers.embedding import write_embedding_checkpoint
from tests.helpers.models import tiny_config, write_checkpoint

ARRAYS: dict[str, NDArray[Any]] = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.zeros((0, 5), np.float16),
    "c": np.array(2.5, np.float32),
    "d": np.arange(4, dtype=np.int64),
}
MODEL = json.dumps(tiny_config())


def damaged_file(content: bytes, source: random.Random) -> bytes:
    """A safetensors file whose header, header length or data is damaged."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if source.random() < 0.3:
        return damaged_bytes(content, source)
    text = json_bytes(damaged_json(header, source), source)
    announced = source.choice((len(text), len(text), len(text), len(text) + 1, 0, 2**63, len(text) * 1000))
    return announced.to_bytes(8, "little") + text + data


def test_safetensors_headers(tmp_path: Path) -> None:
    """What is accepted, the safetensors library accepts too, with the same values."""
    path = tmp_path / "model.safetensors"
    content = safetensors.numpy.save(ARRAYS, {"format": "pt"})
    refused = 0
    for index, source in counts("safetensors", 1500, 100_000):
        path.write_bytes(damaged_file(content, source))
        case = f"safetensors:{index}"
        found = outcome(case, lambda: SafetensorsFile(path))
        if isinstance(found, Q3EdgeError):
            refused += 1
            continue
        try:
            with safetensors.safe_open(path, "pt") as expected:
                assert set(found.entries) == set(expected.keys()), case
                for name in found.entries:
                    values = outcome(case, partial(found.read, name))
                    if not isinstance(values, Q3EdgeError):  # a dtype that Qwen3 has not
                        theirs = expected.get_tensor(name)
                        theirs = theirs.view(torch.uint16) if theirs.dtype == torch.bfloat16 else theirs
                        theirs = theirs.view(torch.uint8) if theirs.dtype == torch.float8_e4m3fn else theirs
                        assert values.tobytes() == theirs.numpy().tobytes(), case
        finally:
            found.close()
    check_refusals(refused)


def test_configurations(tmp_path: Path) -> None:
    """A configuration that is read has the numbers that stand in the file."""
    refused = 0
    config = tiny_config(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256})
    for index, source in counts("config", 1000, 10_000):
        (tmp_path / "config.json").write_bytes(json_bytes(damaged_json(config, source), source))
        case = f"config:{index}"
        found = outcome(case, lambda: Qwen3Config.load(tmp_path))
        if isinstance(found, Q3EdgeError):
            refused += 1
            continue
        raw = json.loads((tmp_path / "config.json").read_bytes())
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            value = getattr(found, name)
            assert type(value) is int, case
            assert value > 0, case
            assert raw.get(name, value) == value, case
        assert found.context_length > 0, case
    check_refusals(refused)


def test_files_of_sentence_transformers(tmp_path: Path) -> None:
    """Nothing is read as an embedding model but last-token pooling alone."""
    folder = write_embedding_checkpoint(tmp_path / "checkpoint")
    whole = {name: json.loads((folder / name).read_text()) for name in SENTENCE_FILES}
    refused = 0
    for number, source in counts("sentence", 600, 20_000):
        name = source.choice(SENTENCE_FILES)
        for other, value in whole.items():
            (folder / other).write_text(json.dumps(value))
        (folder / name).write_bytes(json_bytes(damaged_json(whole[name], source), source))
        kind, prompt = (outcome(f"sentence:{number}", partial(read, folder)) for read in (stated_kind, query_prompt))
        refused += isinstance(kind, InputError) + isinstance(prompt, InputError)
        assert isinstance(prompt, str | InputError)
        if kind == "embedding":
            pooling = json.loads((folder / SENTENCE_FILES[1]).read_bytes())
            ways = [name for name, on in pooling.items() if name.startswith("pooling_mode") and on]
            assert ways == ["pooling_mode_lasttoken"], f"sentence:{number}"
    check_refusals(refused)


@pytest.mark.slow
def test_indexes(tmp_path: Path) -> None:
    """An index that is read leads every tensor to a shard that holds it, inside the folder."""
    folder = write_checkpoint(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    names = sorted(safetensors.numpy.load(_as_float(whole)))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (tmp_path / "outside.safetensors").write_bytes(whole)
    index_file = folder / "model.safetensors.index.json"
    index = {
        "metadata": {"total_size": len(whole)},
        "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors"),
    }
    refused = 0
    for number, source in counts("index", 400, 10_000):
        damaged = damaged_json(index, source)
        if source.random() < 0.3 and isinstance(damaged, dict) and isinstance(damaged.get("weight_map"), dict):
            damaged["weight_map"][source.choice(names)] = source.choice(
                ("../outside.safetensors", str(tmp_path / "outside.safetensors"))
            )
        index_file.write_bytes(json_bytes(damaged, source))
        case = f"index:{number}"

        def read() -> Any:
            with open_model(str(folder)) as model:
                return model.read(names[0])[:1]

        found = outcome(case, read)
        refused += isinstance(found, InputError)
        if "outside.safetensors" in index_file.read_text(errors="replace"):
            assert isinstance(found, InputError), case
    check_refusals(refused)


def _as_float(content: bytes) -> bytes:
    """The file with its bfloat16 tensors called float16, which numpy has."""
    return content.replace(b'"BF16"', b'"F16" ')
