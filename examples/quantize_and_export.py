"""Quantize a checkpoint, export it as an ONNX model, and see what the smaller size costs."""

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge

MODEL = Path(str(files("q3edge.data") / "demo_model"))  # or a hub id: "Qwen/Qwen3-0.6B"


def main() -> None:
    """Quantize in two formats, export both, and compare each with the float model."""
    float_bytes = q3edge.inspect(MODEL).stored_bytes
    print(f"float: {float_bytes / 1e6:.2f} MB")
    with TemporaryDirectory() as name:
        folder = Path(name)
        for recipe in ("int8", "int4"):
            # method="rtn" rounds to nearest, in seconds; leave it out for the calibration that large models need
            q3edge.quantize(MODEL, folder / f"{recipe}-weights", recipe, method="rtn")
            manifest = q3edge.export(folder / f"{recipe}-weights", folder / recipe)
            report = q3edge.validate(folder / recipe, MODEL, max_tokens=512)
            size, kl = manifest.metrics["model_bytes"], report.overall.mean_kl.value
            print(f"{recipe}: {size / 1e6:.2f} MB, mean KL to float {kl:.4f} nats")


if __name__ == "__main__":
    main()
