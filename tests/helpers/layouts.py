"""Checkpoints in other tools' layouts, packed by loops that are plain to read: what the readers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tests.helpers.models import edit_config, write_checkpoint

Tensors = Mapping[str, torch.Tensor]
Pack = Callable[["Codes"], Tensors]


@dataclass(frozen=True)
class Codes:
    """Random codes [N, K] with scales and zero points [N, K/G] of one matrix, and the values that they stand for."""

    bits: int
    codes: NDArray[np.int64]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float32]:
        """Values float32 [N, K], each computed by itself."""
        size = self.codes.shape[1] // self.scales.shape[1]
        values = np.empty(self.codes.shape, np.float32)
        for row, column in np.ndindex(*self.codes.shape):
            scale, zero_point = self.scales[row, column // size], self.zero_points[row, column // size]
            values[row, column] = np.float32(self.codes[row, column] - zero_point) * scale
        return values


def random_codes(
    shape: tuple[int, int], bits: int, group_size: int, *, symmetric: bool, dtype: torch.dtype, seed: int
) -> Codes:
    """Draw codes, and scales that `dtype` holds exactly."""
    generator = np.random.default_rng(seed)
    rows, width = shape
    groups = (rows, width // group_size)
    scales = torch.from_numpy(generator.uniform(0.002, 0.02, groups)).to(dtype).float().numpy()
    middle = np.full(groups, 1 << (bits - 1))
    # From 1: a layout that stores one less cannot express 0 in the tools' own kernels.
    zero_points = middle if symmetric else generator.integers(1, 1 << bits, groups)
    return Codes(bits, generator.integers(0, 1 << bits, shape), scales, zero_points)


def packed_words(codes: NDArray[np.int64], bits: int) -> torch.Tensor:
    """Pack [M, N] along the first dimension into int32 words, the first in the lowest bits."""
    per_word = 32 // bits
    words = np.zeros((-(-codes.shape[0] // per_word), codes.shape[1]), np.uint32)
    for place, row in enumerate(codes):
        words[place // per_word] |= row.astype(np.uint32) << np.uint32(bits * (place % per_word))
    return torch.from_numpy(words.view(np.int32))


def packed_words_awq(codes: NDArray[np.int64]) -> torch.Tensor:
    """Pack 4-bit [M, N] along the second dimension into int32 words, in AWQ's order of eight neighbours."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for word, place in np.ndindex(words.shape[1], 8):
        column = 8 * word + (0, 2, 4, 6, 1, 3, 5, 7)[place]
        words[:, word] |= codes[:, column].astype(np.uint32) << np.uint32(4 * place)
    return torch.from_numpy(words.view(np.int32))


def gptq_parts(codes: Codes, one_less: int) -> Tensors:
    """Tensors of GPTQ's layout; one_less: 1 where zero points are stored less one."""
    width, groups = codes.codes.shape[1], codes.scales.shape[1]
    return {
        "qweight": packed_words(codes.codes.T, codes.bits),
        "qzeros": packed_words(codes.zero_points - one_less, codes.bits).T,
        "scales": torch.from_numpy(codes.scales.T.copy()).half(),
        "g_idx": torch.arange(width, dtype=torch.int32) // (width // groups),
    }


def awq_parts(codes: Codes) -> Tensors:
    """Tensors of AWQ's layout."""
    return {
        "qweight": packed_words_awq(codes.codes.T),
        "qzeros": packed_words_awq(codes.zero_points.T),
        "scales": torch.from_numpy(codes.scales.T.copy()).half(),
    }


def write_layout(
    folder: Path, settings: Mapping[str, Any], make: Callable[[tuple[int, int], int], Codes], pack: Pack, **config: Any
) -> dict[str, Codes]:
    """Write a tiny checkpoint whose linear layers are in a layout; returns their codes by the weight's name.

    pack: codes -> part ("qweight", ...) -> tensor, stored in place of "weight".
    """
    found: dict[str, Codes] = {}

    def parts(name: str, weights: torch.Tensor) -> Tensors:
        rows, width = weights.shape
        found[name] = make((rows, width), len(found))
        return pack(found[name])

    write_parts(folder, settings, parts, **config)
    return found


def write_parts(
    folder: Path, settings: Mapping[str, Any], parts: Callable[[str, torch.Tensor], Tensors], **config: Any
) -> None:
    """Write a tiny checkpoint whose linear layers are `parts` in place of "weight": name, weights -> part -> tensor."""
    write_checkpoint(folder, **config)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        made = parts(name, tensors.pop(name).float())
        tensors |= {name.removesuffix("weight") + part: tensor for part, tensor in made.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    edit_config(folder, quantization_config=settings)


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a checkpoint in one file."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
