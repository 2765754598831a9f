"""Damaged files of saved prefixes, whose checksums may be right: refused before anything of them reaches the cache."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from q3edge.errors import InputError
from q3edge.runtime.model import Model
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, damaged_json, json_bytes, outcome
from tests.helpers.runtime import write_artifact

TEXT = list(range(2, 90))
START = 8 + 32 + 8  # magic, sha256 and length of the header


def parts(content: bytes) -> tuple[Any, bytes]:
    """Header of a file as bytes, and its arrays' bytes."""
    length = int.from_bytes(content[START - 8 : START], "little")
    return content[START : START + length], content[START + length :]


def resealed(header: bytes, arrays: bytes) -> bytes:
    """A file whose header has its right length and sha256."""
    return b"q3arrays" + hashlib.sha256(header).digest() + len(header).to_bytes(8, "little") + header + arrays


def damaged(content: bytes, header: dict[str, Any], source: random.Random) -> bytes:
    """A file with damaged bytes, a damaged header that fits its checksum, or arrays of another size than it says."""
    _, arrays = parts(content)
    chance = source.random()
    if chance < 0.4:
        return damaged_bytes(content, source)
    if chance < 0.8:
        return resealed(json_bytes(damaged_json(header, source), source), arrays)
    changed = copy.deepcopy(header)
    entry = source.choice(changed["arrays"])
    if chance < 0.9:
        entry[2] = [source.choice((0, 1, n, n + 1, 2**31, 2**62, 2**80, -1)) for n in entry[2]]
        return resealed(json_bytes(changed, random.Random(4)), arrays)
    entry[1] = source.choice(("|O", "<f8", "|V9", "<M8[s]", "i4,f4", "(9999,)f8", "<U99999999", "x", ""))
    return resealed(json_bytes(changed, random.Random(4)), damaged_bytes(arrays, source))


def test_saved_prefixes(tmp_path: Path) -> None:
    """One line of text, no memory for what a header claims, and a cache that holds what it held."""
    path, refused = tmp_path / "prefix", 0
    with Model.open(write_artifact(tmp_path / "artifact"), threads=1) as model:
        model.save_prefix(path, TEXT)
        content = path.read_bytes()
        header = json.loads(parts(content)[0])
        model.generate([5] * 40, max_new_tokens=3)
        cache = model.engine.slots._cache
        before = {buffer.past: array.copy() for buffer, array in cache.arrays.items()}
        held = model.engine.slots.last_ended
        tracemalloc.start()
        for index, source in counts("prefix", 250, 1000):
            case = f"prefix:{index}"
            changed = damaged(content, header, source)
            if changed == content:
                continue
            path.write_bytes(changed)
            found = outcome(case, partial(model.load_prefix, path))
            assert isinstance(found, InputError), case
            assert str(found).startswith(str(path)), case
            assert path.read_bytes() == changed, case
            refused += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20
        assert model.engine.slots.last_ended == held
        for buffer, array in cache.arrays.items():
            np.testing.assert_array_equal(array, before[buffer.past])
        path.write_bytes(content)
        assert model.load_prefix(path) == len(TEXT)
    check_refusals(refused)
