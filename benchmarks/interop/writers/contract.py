"""What every script of a tool takes and writes.

    write_TOOL CASE SOURCE OUT      (in the tool's environment)

SOURCE is a float model with calibration.jsonl beside it. OUT then holds `model`, the checkpoint that the tool writes,
`values.safetensors`, its matrices [N, K] by the weight's name, as the tool's own code makes them of that checkpoint, in
the type that it computes in, and `result.json` with the tool's `version`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Write = Callable[[str, Path], None]  # SOURCE, folder of the checkpoint
Values = Callable[[Path], Mapping[str, torch.Tensor]]


def windows(source: str, count: int, length: int) -> list[torch.Tensor]:
    """Token ids int64 [length] of the texts beside the model, `count` of them."""
    from transformers import AutoTokenizer

    lines = (Path(source) / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    ids = torch.tensor(AutoTokenizer.from_pretrained(source)("\n".join(lines))["input_ids"])
    return list(ids[: count * length].reshape(count, length))


def by_identity(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Matrices of the layers that are no plain torch.nn.Linear: what each makes of the rows of an identity matrix."""
    values = {}
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            width: int = getattr(layer, "in_features", 0) or getattr(layer, "infeatures", 0)
            with torch.no_grad():
                values[f"{name}.weight"] = layer(torch.eye(width, dtype=dtype)).T
    return values


def main(version: str, cases: Mapping[str, tuple[Write, Values]]) -> None:
    """Run the case that the command line names."""
    name, source, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    write, values = cases[name]
    write(source, out / "model")
    found: dict[str, Any] = {key: value.contiguous() for key, value in values(out / "model").items()}
    save_file(found, out / "values.safetensors")
    (out / "result.json").write_text(json.dumps({"version": version}))
