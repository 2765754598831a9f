"""Float checkpoint -> quantized checkpoint, streamed in row blocks: peak memory does not grow with the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from calibration import Solver, solver_for
from calibration.parallel import ordered_map
from calibration.scales import groups_at_limits
from exporters.compressed_tensors import QuantizedWriter
from q3edge.artifact import Manifest, Notice, staged_directory, tool_versions
from q3edge.checkpoint import Checkpoint
from q3edge.checkpoint.hub import resolve_model
from q3edge.config import CONFIG_FILE, read_json_object
from q3edge.progress import Progress, Silent
from q3edge.recipe import Recipe
from q3edge.scheme import Scheme
from q3edge.side_files import copy_side_files
from q3edge.tensor import QuantizedTensor
from q3edge.weights import tensor_shapes

BLOCK_WEIGHTS = 4 << 20  # 16 MiB of float32; a few blocks are in memory at a time
_ROW_MULTIPLE = 32  # zero points are packed along the rows, 32 bits at a time


def quantize_checkpoint(
    model: str, output: Path, recipe: Recipe, *, overwrite: bool = False, progress: Progress | None = None
) -> Manifest:
    """Quantize MODEL (folder or hub id) into `output`; returns the manifest that was written there."""
    folder = resolve_model(model)
    with (
        Checkpoint.open(folder) as checkpoint,
        staged_directory(output, overwrite=overwrite, inputs=(folder,)) as staging,
    ):
        return write_quantized(checkpoint, recipe, staging, progress or Silent())


def write_quantized(checkpoint: Checkpoint, recipe: Recipe, folder: Path, progress: Progress) -> Manifest:
    """Quantize into the existing empty `folder`."""
    schemes = recipe.resolve(checkpoint.config)
    at_limits = _write_weights(checkpoint, schemes, solver_for(recipe.method), folder, progress)
    notices = checkpoint.notices + copy_side_files(checkpoint.folder, folder)
    if at_limits:
        detail = "groups have a scale that float16 cannot hold and were stored as zeros or clipped"
        notices += (Notice("scale-beyond-float16", at_limits, detail),)
    manifest = Manifest(
        kind="quantized",
        parent_digest=checkpoint.digest(),
        recipe=recipe.to_json(),
        notices=notices,
        metrics=size_metrics(tensor_shapes(checkpoint.config), schemes),
        versions=tool_versions("torch", "numpy"),
    )
    return manifest.save(folder)


def size_metrics(shapes: Mapping[str, tuple[int, ...]], schemes: Mapping[str, Scheme | None]) -> dict[str, Any]:
    """Bytes and bits per weight of the quantized matrices and of everything; float tensors count 16 bits."""
    total_bytes, total_weights = 0, 0
    for name, shape in shapes.items():
        scheme = schemes[name]
        count = math.prod(shape)
        total_weights += count
        total_bytes += 2 * count if scheme is None else scheme.stored_bytes(shape[0], shape[1])
    return {
        "weights": total_weights,
        "weight_bytes": total_bytes,
        "bits_per_weight": 8 * total_bytes / total_weights,
        "quantized_tensors": sum(scheme is not None for scheme in schemes.values()),
        "float_tensors": sum(scheme is None for scheme in schemes.values()),
    }


def _write_weights(
    checkpoint: Checkpoint, schemes: Mapping[str, Scheme | None], solver: Solver, folder: Path, progress: Progress
) -> int:
    """Quantize every tensor; returns how many groups met a limit of float16 scales."""
    shapes = tensor_shapes(checkpoint.config)
    raw_config = read_json_object(checkpoint.folder / CONFIG_FILE)
    dtypes = {name: checkpoint.dtype(name) for name, scheme in schemes.items() if scheme is None}
    blocks = [
        (name, scheme, rows)
        for name, scheme in schemes.items()
        if scheme is not None
        for rows in row_blocks(*shapes[name])
    ]

    def solve(block: tuple[str, Scheme, slice]) -> tuple[str, QuantizedTensor, int]:
        name, scheme, rows = block
        weights = checkpoint.read(name, rows)
        tensor = solver(weights, scheme)
        return name, tensor, groups_at_limits(weights, tensor)

    at_limits = 0

    with (
        QuantizedWriter(folder, raw_config, schemes, dtypes) as writer,
        progress.task("quantize", sum(map(math.prod, shapes.values()))) as advance,
    ):
        for name in dtypes:
            for rows in row_blocks(*shapes[name]):
                writer.add_float(name, checkpoint.read(name, rows))
            advance(math.prod(shapes[name]))
        for name, tensor, count in ordered_map(solve, blocks):
            writer.add(name, tensor)
            at_limits += count
            advance(tensor.codes.size)
    return at_limits


def row_blocks(rows: int, width: int = 1) -> Iterator[slice]:
    """Consecutive row ranges of at most BLOCK_WEIGHTS weights (and at least 32 rows)."""
    step = max(_ROW_MULTIPLE, BLOCK_WEIGHTS // width // _ROW_MULTIPLE * _ROW_MULTIPLE)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
