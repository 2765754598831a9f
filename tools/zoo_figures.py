"""Write q3edge/data/zoo_figures.json, what each format of the known models takes: `python -m tools.zoo_figures`.

The figures are those of `inspect`, whose dry runs and forecasts take a minute for the whole family: `q3edge zoo` is to
answer at once, on devices without torch and onnx too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.checkpoint.known_models import known_models
from q3edge.defaults import SAMPLES, SEQ_LEN
from q3edge.formats import FORMATS
from q3edge.pipeline.inspect import footprints
from q3edge.pipeline.quantize.forecast import Workload, calibration_work, disk_bytes, ram_bytes
from q3edge.quantization.recipe import Recipe

PAGE = Path(__file__).resolve().parents[1] / "q3edge" / "data" / "zoo_figures.json"
COMMAND = "python -m tools.zoo_figures"
THREADS = (1, 2, 4, 8, 16, 32, 64)  # that the memory of making is given for


def figures_of(config: Qwen3Config) -> dict[str, dict[str, Any]]:
    """Figures of every format of a model: its footprint, and what its calibration takes where it is quantized."""
    found, not_possible = footprints(config)
    assert not not_possible
    figures: dict[str, dict[str, Any]] = {}
    for name, footprint in found.items():
        figures[name] = {"footprint": asdict(footprint)}
        if name in FORMATS:
            schemes = Recipe.for_format(name).fitted_to(config)[0].resolve(config)
            load = Workload(config, schemes, SAMPLES, SEQ_LEN, exported=True)
            work = calibration_work(load)
            figures[name]["calibration"] = {"forward": round(work.forward), "other": round(work.other)}
            figures[name]["making"] = {
                "disk_bytes": disk_bytes(load),
                "ram_bytes": {str(threads): ram_bytes(load, threads) for threads in THREADS},
            }
    return figures


def main() -> None:
    """Write the file."""
    shapes: dict[str, Any] = {}
    for model in known_models():
        if model.shape not in shapes:
            shapes[model.shape] = figures_of(model.config)
            print(model.shape, flush=True)
    PAGE.write_text(json.dumps(shapes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
