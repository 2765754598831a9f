"""Scales of an int8 KV cache in QDIR: a separate safetensors file, which other readers of QDIR ignore."""

from __future__ import annotations

from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec, KVScales
from q3edge.checkpoint.safetensors.file import SafetensorsFile
from q3edge.checkpoint.safetensors.writer import SafetensorsWriter
from q3edge.errors import InputError

KV_SCALES_FILE = "kv_cache.scales"  # no name that ends in .safetensors: vLLM reads every such file as weights


def write_kv_scales(folder: Path, scales: KVScales) -> None:
    """Write folder/kv_cache.scales."""
    arrays = {field.name: getattr(scales, field.name) for field in fields(scales)}
    entries = {name: ("F32", array.shape) for name, array in arrays.items()}
    with SafetensorsWriter(folder / KV_SCALES_FILE, entries, {}) as writer:
        for name, array in arrays.items():
            writer.append(name, array)


def read_kv_scales(folder: Path, config: Qwen3Config) -> KVScales | None:
    """Read the scales of an int8 cache; None: the cache of this model is float32. InputError: they do not fit it."""
    path = folder / KV_SCALES_FILE
    if not path.exists():
        return None
    spec = KVCacheSpec.of(config)
    shape = (len(spec.layers), spec.kv_heads, spec.head_dim)
    with closing(SafetensorsFile(path)) as file:
        found = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}
        if found != dict.fromkeys((field.name for field in fields(KVScales)), ("F32", shape)):
            raise InputError(f"{path}: holds {found}, expected keys and values, each F32 {shape}; quantize again")
        scales = KVScales(file.read("keys"), file.read("values"))
    if not all(np.isfinite(array).all() and (array > 0).all() for array in (scales.keys, scales.values)):
        raise InputError(f"{path}: a scale is not above 0; the file is damaged, quantize again")
    return scales
