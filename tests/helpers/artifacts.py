"""Damaged artifacts whose manifests match their content: damage that only an evaluation finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx

from q3edge.artifact import DATA_FILE, MODEL_FILE, Manifest


def overwritten(artifact: Path, copy: Path, tensor: str, values: Callable[[int], bytes], part: slice) -> Path:
    """Copy `artifact` with `part` of a tensor's bytes replaced by `values` of their number; the manifest matches."""
    shutil.copytree(artifact, copy)
    graph = onnx.load(copy / MODEL_FILE, load_external_data=False).graph
    entries = {e.key: e.value for t in graph.initializer if t.name == tensor for e in t.external_data}
    offset, length = int(entries["offset"]), int(entries["length"])
    data = bytearray((copy / DATA_FILE).read_bytes())
    start, stop, _ = part.indices(length)
    data[offset + start : offset + stop] = values(stop - start)
    (copy / DATA_FILE).write_bytes(data)
    Manifest.load(copy).save(copy)
    return copy
