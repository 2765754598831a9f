"""Export of a checkpoint by optimum-onnx, with its int8 weights: CHECKPOINT OUT. Run by optimum's own interpreter.

Nothing of q3edge is imported: that environment need not have it. OUT then holds `model_quantized.onnx`.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path


def main(checkpoint: str, out: str) -> None:
    """Export as optimum does for generation, then round weights per channel, and activations while it runs."""
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    unrounded = Path(out) / "float"
    main_export(
        checkpoint, output=unrounded, task="text-generation-with-past", device="cpu", dtype="fp32", do_validation=False
    )
    is_arm = platform.machine().lower() in {"aarch64", "arm64"}
    make = AutoQuantizationConfig.arm64 if is_arm else AutoQuantizationConfig.avx512_vnni
    quantizer = ORTQuantizer.from_pretrained(unrounded, file_name="model.onnx")
    quantizer.quantize(save_dir=out, quantization_config=make(is_static=False, per_channel=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
