"""What every peer script takes and writes, and the sizes that make their formats comparable.

    run_PEER.py CHECKPOINT tokens.npz OUT --variant NAME      (in the environment of PEER.txt)

OUT then holds `dequantized.safetensors`, the weights as the tool rounded them (float32, Hugging Face names), and
`result.json`. Two sizes are given because tools store different things beside 4-bit codes: `bytes_as_written` is what
the tool's own files take, `bytes_on_disk` is the same codes with float16 scales and, where the tool leaves the
embedding float, an 8-bit one (symmetric, blocks of 32), which `dequantized.safetensors` then holds too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

EMBEDDING = "model.embed_tokens.weight"
_TABLE_GROUP = 32


@dataclass
class Job:
    """One run: its arguments, and the clock that is stopped when the tool's own files are written."""

    checkpoint: Path
    tokens: Path
    out: Path
    variant: str
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def work(self) -> Path:
        """Where the tool writes its own files."""
        return self.out / "as_written"

    def calibration(self) -> torch.Tensor:
        """int64 [B, S] token ids."""
        with np.load(self.tokens) as stored:
            return torch.from_numpy(stored["calibration"])

    def stop(self) -> None:
        """The tool is done; what follows (reading its files back) is not its time."""
        self.seconds = time.perf_counter() - self.started
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        self.cpu_seconds += sum(entry.ru_utime + entry.ru_stime for entry in usage)
        self.peak_mb = max(entry.ru_maxrss for entry in usage) / 1024

    def finish(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        package: str,
        bytes_as_written: int,
        bytes_on_disk: int,
        float_embedding: bool,
        note: str = "",
    ) -> None:
        """Check the tensors against the checkpoint's and write OUT."""
        result = {name: tensor.detach().to(torch.float32).contiguous() for name, tensor in tensors.items()}
        original = float_tensors(self.checkpoint)
        errors = []
        for name, tensor in original.items():
            if name not in result or result[name].shape != tensor.shape:
                raise SystemExit(f"{name}: missing or of another shape in what the tool wrote")
            if name.endswith("_proj.weight"):
                errors.append(float((result[name] - tensor.float()).norm() / tensor.float().norm()))
        if float_embedding:
            result[EMBEDDING] = rounded_to_8_bits(result[EMBEDDING])
        if "lm_head.weight" in result and torch.equal(result["lm_head.weight"], result[EMBEDDING]):
            del result["lm_head.weight"]
        save_file(result, self.out / "dequantized.safetensors")
        found = {
            "tool": package,
            "version": version(package),
            "variant": self.variant,
            "bytes_as_written": bytes_as_written,
            "bytes_on_disk": bytes_on_disk,
            "weights": sum(tensor.numel() for tensor in original.values()),
            "median_relative_weight_error": float(np.median(errors)),
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "peak_rss_mb": round(self.peak_mb),
            "embedding": "8-bit by this benchmark" if float_embedding else "as the tool leaves it",
            "note": note,
        }
        (self.out / "result.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found))


def main(variants: Mapping[str, Callable[[Job], None]]) -> None:
    """Parse the arguments and run one variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", choices=list(variants), default=next(iter(variants)))
    options = parser.parse_args()
    job = Job(options.checkpoint.resolve(), options.tokens.resolve(), options.out.resolve(), options.variant)
    job.work.mkdir(parents=True, exist_ok=True)
    os.chdir(job.work)  # some tools leave logs where they are started
    variants[options.variant](job)


def float_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the float checkpoint as stored; a head that repeats the embedding of a tied model is left out."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        tensors |= load_file(path)
    if config(checkpoint).get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    return tensors


def config(checkpoint: Path) -> dict[str, Any]:
    """config.json."""
    found: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return found


def linear_names(names: Iterable[str]) -> list[str]:
    """The matrices inside the layers."""
    return [name for name in names if name.endswith("_proj.weight")]


def file_bytes(paths: Iterable[Path]) -> int:
    """Total size."""
    return sum(path.stat().st_size for path in paths)


def group_bytes(
    checkpoint: Path, *, bits: int, group: int, zero_point_bits: int, table: tuple[int, int, int] = (8, _TABLE_GROUP, 0)
) -> int:
    """Bytes of a format with float16 scales per group: the layers' matrices, the embedding and head, float16 norms.

    table: (bits, group, zero-point bits) of the embedding and of an untied head.
    """
    total = 0
    for name, tensor in float_tensors(checkpoint).items():
        if tensor.dim() == 1:
            total += 2 * tensor.numel()
            continue
        width, size, zeros = (bits, group, zero_point_bits) if name.endswith("_proj.weight") else table
        total += _matrix_bytes(tensor.shape, width, size, zeros)
    return total


def rounded_to_8_bits(weights: torch.Tensor) -> torch.Tensor:
    """Round to nearest, symmetric 8-bit codes, a float16 scale per 32 neighbours: what q3edge does to the embedding."""
    blocks = weights.reshape(-1, _TABLE_GROUP)
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    scale = (torch.where(high > -low, high, low) / -128).to(torch.float16).float()
    steps = torch.where(scale == 0, torch.zeros_like(blocks), blocks / scale)
    return (steps.round().clamp(-128, 127) * scale).reshape(weights.shape)


def calibration_batches(job: Job) -> list[dict[str, torch.Tensor]]:
    """One dict of input_ids and attention_mask [1, S] per window."""
    return [{"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])} for ids in job.calibration()]


def _matrix_bytes(shape: Sequence[int], bits: int, group: int, zero_point_bits: int) -> int:
    rows, width = shape
    groups = math.ceil(width / group)
    return rows * width * bits // 8 + rows * groups * 2 + rows * groups * zero_point_bits // 8
