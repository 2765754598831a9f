"""What `q3edge inspect` predicts against what happens: disk, RAM, tokens/s and build time per format.

    python benchmarks/predictions.py CHECKPOINT [--formats int4,int8,...]

Each format is quantized and exported by the commands (float: exported) and loaded in a process of its own, which
fills 2048 tokens of context and decodes 32 more; RAM is that process's peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine_line
from processes import measure

_PROBE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from q3edge.pipeline.predictions import cache_tokens
from q3edge.runtime.session.decoder import Decoder
decoder = Decoder(Path(sys.argv[1]))
depth = cache_tokens(decoder.config) - 40
cache = decoder.new_cache(depth + 40)
ids = np.random.default_rng(0).integers(0, decoder.config.vocab_size, (1, depth))
for start in range(0, depth, 256):
    decoder.forward(ids[:, start : start + 256], cache)
cache.truncate(64)
seconds = []
for _ in range(32):
    begin = time.perf_counter()
    decoder.forward(ids[:, :1], cache)
    seconds.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"ram": peak, "tokens_per_second": 1 / sorted(seconds)[16]}))
"""


def built(checkpoint: Path, name: str, work: Path) -> tuple[float, Path]:
    """Seconds of the commands that make one format, and where it lies."""
    program = [sys.executable, "-m", "q3edge"]
    target, quantized = str(work / name), str(work / f"{name}-quantized")
    commands = [
        [*program, "quantize", str(checkpoint), "-o", quantized, "--format", name, "--method", "rtn"],
        [*program, "export", quantized, "-o", target],
    ]
    if name == "float":
        commands = [[*program, "export", str(checkpoint), "-o", target, "--format", "float"]]
    return measure(commands, work / "log").wall, Path(target)


def main() -> None:
    """Print one Markdown row per format: predicted / measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--formats", default="int4-mixed,int4,int8,int8-dynamic,float")
    options = parser.parse_args()
    command = [sys.executable, "-m", "q3edge", "inspect", str(options.checkpoint), "--json"]
    predictions = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["predictions"]
    predicted = {entry["format"]: entry for entry in predictions}
    print(machine_line(), end="\n\n")
    print("| format | disk MB | RAM MB | tokens/s | build s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.formats.split(","):
            seconds, artifact = built(options.checkpoint, name, Path(folder))
            probe = subprocess.run(
                [sys.executable, "-c", _PROBE, str(artifact)], check=True, capture_output=True, text=True
            )
            found, entry = json.loads(probe.stdout), predicted[name]
            disk = sum(path.stat().st_size for path in (artifact / "onnx").iterdir())
            cells = [
                f"{entry['disk_bytes'] / 1e6:.1f} / {disk / 1e6:.1f}",
                f"{entry['ram_bytes'] / 1e6:.0f} / {found['ram'] / 1e6:.0f}",
                f"{entry['tokens_per_second']:.0f} / {found['tokens_per_second']:.0f}",
                f"{entry['build_seconds']:.0f} / {seconds:.0f}",
            ]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
