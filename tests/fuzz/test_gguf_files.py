"""Damaged GGUF files: refused in one line, or read as the gguf package reads them; nothing behind the file's end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.checkpoint.gguf.files import GgufFile
from q3edge.checkpoint.gguf.tokenizer_metadata import write_tokenizer
from q3edge.errors import Q3EdgeError
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, outcome
from tests.helpers.gguf_models import Floats, own_name, random_floats, read_gguf_model, write_gguf_model

MODEL: dict[str, Any] = {"vocab_size": 64, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32}
NUMBERS = (0, 1, 2, 3, 7, 31, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63, 2**64 - 1)
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
VOCABULARY = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4}


def model_file(path: Path) -> int:
    """Write a model with a tokenizer; returns the length of its header."""
    tokenizer = {
        "model": {"type": "BPE", "vocab": VOCABULARY, "merges": ["a b", "Ġ a"]}, "pre_tokenizer": WORDS,
        "added_tokens": [{"id": 5, "content": "<|im_end|>", "special": True}],
    }  # fmt: skip
    ids = {"tokenizer.ggml.eos_token_id": 5, "tokenizer.ggml.add_eos_token": True}
    metadata = {**write_tokenizer(tokenizer, 64, "t"), **ids, "tokenizer.chat_template": "{{ messages }}"}
    write_gguf_model(path, random_floats(**MODEL), "Q8_0", metadata, **MODEL)
    return min(tensor.data_offset for tensor in gguf.GGUFReader(path).tensors)


def damaged_file(content: bytes, header: int, source: random.Random) -> bytes:
    """Copy with numbers of the header replaced, or bytes of any place damaged."""
    chance = source.random()
    if chance < 0.3:
        return damaged_bytes(content[:header], source) + content[header:]
    if chance < 0.4:
        return damaged_bytes(content, source)
    found = bytearray(content)
    for _ in range(source.randint(1, 2)):
        size = source.choice((1, 4, 8))
        at = source.randrange(header - 8)
        found[at : at + size] = (source.choice(NUMBERS) % 256**size).to_bytes(size, "little")
    return bytes(found)


def read(path: Path) -> dict[str, Floats]:
    """All values of a model by GGUF's names; every tensor lies in the file."""
    file = GgufFile(path)
    try:
        assert all(entry.offset + entry.nbytes <= path.stat().st_size for entry in file.header.entries.values())
    finally:
        file.close()
    with open_float_model(path) as model:
        assert isinstance(model, Checkpoint)
        return {own_name(name): model.read(name) for name in model.names()}


def test_gguf_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    header = model_file(path)
    content = path.read_bytes()
    refused = 0
    for index, source in counts("gguf", 500, 10_000):
        path.write_bytes(damaged_file(content, header, source))
        case = f"gguf:{index}"
        found = outcome(case, lambda: read(path))
        if isinstance(found, Q3EdgeError):
            refused += 1
            continue
        theirs = read_gguf_model(path)[0]
        for name, values in found.items():
            np.testing.assert_array_equal(values, theirs[name], case)
    check_refusals(refused)
