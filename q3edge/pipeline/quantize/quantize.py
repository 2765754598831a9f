"""Float checkpoint -> quantized checkpoint, streamed: peak memory does not grow with the number of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import count_weights, tensor_shapes
from q3edge.artifact import Manifest, Notice, staged_directory
from q3edge.artifact.side_files import RECIPE_FILE, copy_side_files
from q3edge.calibration.layers.kv_scales import kv_scales
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.calibration.rounding.scales import groups_at_limits
from q3edge.checkpoint import Checkpoint, open_float_model, open_quantized_model
from q3edge.checkpoint.compressed_tensors import QuantizedWriter, write_kv_scales
from q3edge.exporters.onnx.stored import weight_bytes
from q3edge.machine.tool_versions import tool_versions
from q3edge.pipeline.quantize.calibrate import (
    CalibrationOptions,
    SolvedLayers,
    choose_method,
    discard_work,
    load_tokens,
    run_calibration,
    work_folder,
)
from q3edge.pipeline.quantize.tune import tune_folder
from q3edge.pipeline.runnable import check_runnable
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.parallel import ordered_map

BLOCK_WEIGHTS = 4 << 20  # 16 MiB of float32; a few blocks are in memory at a time
_ROW_MULTIPLE = 32  # zero points are packed along the rows, 32 bits at a time


def quantize_checkpoint(
    model: str,
    output: Path,
    recipe: Recipe,
    calibration: CalibrationOptions | None = None,
    *,
    overwrite: bool = False,
) -> Manifest:
    """Quantize MODEL (folder or hub id) into `output`; returns the manifest written there."""
    with (
        open_float_model(model) as checkpoint,
        staged_directory(output, overwrite=overwrite, inputs=(checkpoint.folder,)) as staging,
    ):
        check_runnable(checkpoint)
        manifest = write_quantized(checkpoint, recipe, staging, calibration, work=work_folder(output))
    discard_work(output, manifest)
    return manifest


def write_quantized(
    checkpoint: Checkpoint,
    recipe: Recipe,
    folder: Path,
    calibration: CalibrationOptions | None = None,
    *,
    work: Path,
    exported: bool = False,
) -> Manifest:
    """Quantize into the existing empty `folder`; a calibration keeps its finished layers in `work`.

    exported: an ONNX model is made from `folder` next, beside it; counted in the forecast of disk space.
    """
    recipe, left_float = recipe.for_model(checkpoint.config).fitted_to(checkpoint.config)
    recipe, notices = choose_method(checkpoint, recipe, calibration)
    if left_float:
        detail = f"tables stay float, as no group size divides their width: {', '.join(left_float)}"
        notices += (Notice("no-group-size-fits", len(left_float), detail),)
    digest = checkpoint.digest()
    with _calibration_for(checkpoint, recipe, calibration or CalibrationOptions(), digest, work, exported) as found:
        schemes = found.recipe.resolve(checkpoint.config)
        at_limits = _write_weights(checkpoint, schemes, found, folder)
        metrics = size_metrics(checkpoint.config, schemes) | found.metrics
        if calibration is not None and calibration.tune and found.tokens is not None:
            metrics["tuning"] = tune_folder(checkpoint, folder, found.tokens, found.held_out)
        for line in _training_summary(metrics):
            progress.note(line)
        chosen = replace(found.recipe, kv_cache=recipe.kv_cache)
        if recipe.kv_cache == "int8":
            tokens = (
                load_tokens(checkpoint, calibration or CalibrationOptions()).token_ids
                if found.tokens is None
                else found.tokens
            )
            with open_quantized_model(folder) as quantized:
                write_kv_scales(folder, kv_scales(quantized, tokens))
        notices += checkpoint.notices + copy_side_files(checkpoint.folder, folder) + found.notices
        if "allocation" in metrics:  # after the copy: the model's folder may hold a recipe of its own
            (folder / RECIPE_FILE).write_text(chosen.to_toml(), encoding="utf-8")
        if at_limits:
            detail = "groups have a scale that cannot be stored: their weights became zeros or were clipped"
            notices += (Notice("scale-out-of-range", at_limits, detail),)
        manifest = Manifest(
            kind="quantized",
            parent_digest=digest,
            recipe=chosen.to_json(),
            notices=notices,
            metrics=metrics,
            versions=tool_versions("torch", "numpy"),
        )
        return manifest.save(folder)


def _training_summary(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Lines of text on the gain of reconstruction and tuning."""
    if layers := metrics.get("reconstruction", {}).values():
        left = sum(layer["loss_after"] / (layer["loss_before"] or 1.0) for layer in layers) / len(layers)
        moved = sum(layer["moved_codes"] for layer in layers) / len(layers)
        yield f"reconstruction: {moved:.1%} of the codes moved, layers err {1 - left:.1%} less on held-out tokens"
    if tuning := metrics.get("tuning"):
        yield f"tuning: KL {tuning['kl_before']:.4f} -> {tuning['kl_after']:.4f} on held-out tokens"


def _calibration_for(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: CalibrationOptions,
    digest: str,
    work: Path,
    exported: bool,
) -> AbstractContextManager[SolvedLayers]:
    """Context of the solving before the weights are written: none (rtn), a calibration, or one within a budget."""
    if recipe.method != "gptq":
        return nullcontext(SolvedLayers(recipe))
    if calibration.budget is None:
        return run_calibration(checkpoint, recipe, calibration, digest, work, exported=exported)
    from q3edge.pipeline.quantize.allocate import search_plans  # loads the exporter, which only budgets need

    return search_plans(
        checkpoint, calibration, calibration.budget, digest, work,
        exported=exported, int8_cache=recipe.kv_cache == "int8",
    )  # fmt: skip


def size_metrics(config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> dict[str, Any]:
    """Sizes for the manifest: bytes and bits per weight of the exported model, without its graph."""
    sizes = weight_bytes(config, schemes)
    weights = count_weights(config)
    return {
        "weights": weights,
        "weight_bytes": sum(sizes.values()),
        "bits_per_weight": 8 * sum(sizes.values()) / weights,
        "quantized_tensors": sum(scheme is not None for scheme in schemes.values()),
        "float_tensors": sum(scheme is None for scheme in schemes.values()),
    }


def _write_weights(
    checkpoint: Checkpoint,
    schemes: Mapping[str, Scheme | None],
    found: SolvedLayers,
    folder: Path,
) -> int:
    """Write the solved layers and round everything else; returns the number of groups with a scale out of range."""
    shapes = tensor_shapes(checkpoint.config)
    dtypes = {name: checkpoint.dtype(name) for name, scheme in schemes.items() if scheme is None}
    dtypes |= dict.fromkeys(
        found.scaled_floats, "F32"
    )  # a channel scale was folded in, which narrower types would round
    at_limits = 0
    with (
        QuantizedWriter(folder, checkpoint.raw_config, schemes, dtypes) as writer,
        progress.task("write", count_weights(checkpoint.config)) as advance,
    ):
        solved = set[str]()
        for result in found.layers():
            for name, values in result.floats.items():
                writer.add_float(name, values)
            for name, tensor in result.tensors.items():
                for rows in row_blocks(*tensor.shape):
                    block = tensor.rows(rows)
                    writer.add(name, block)
                    at_limits += groups_at_limits(checkpoint.read(name, rows), block)
            solved |= {*result.floats, *result.tensors}
            advance(sum(math.prod(shapes[name]) for name in (*result.floats, *result.tensors)))
        for name in (name for name in dtypes if name not in solved):
            for rows in row_blocks(*shapes[name]):
                writer.add_float(name, checkpoint.read(name, rows))
            advance(math.prod(shapes[name]))
        rest = {name: scheme for name, scheme in schemes.items() if scheme is not None and name not in solved}
        for name, tensor, count in _round_rows(checkpoint, rest):
            writer.add(name, tensor)
            at_limits += count
            advance(tensor.codes.size)
    return at_limits


def _round_rows(checkpoint: Checkpoint, schemes: Mapping[str, Scheme]) -> Iterator[tuple[str, QuantizedTensor, int]]:
    """Round row blocks of all tensors to nearest, in order; yields name, block, number of scales out of range."""
    shapes = tensor_shapes(checkpoint.config)

    def solve(block: tuple[str, Scheme, slice]) -> tuple[str, QuantizedTensor, int]:
        name, scheme, rows = block
        weights = checkpoint.read(name, rows)
        tensor = round_to_nearest(weights, scheme)
        return name, tensor, groups_at_limits(weights, tensor)

    blocks = ((name, scheme, rows) for name, scheme in schemes.items() for rows in row_blocks(*shapes[name]))
    return ordered_map(solve, blocks)


def row_blocks(rows: int, width: int = 1) -> Iterator[slice]:
    """Consecutive row ranges of at most BLOCK_WEIGHTS weights (and at least 32 rows)."""
    step = max(_ROW_MULTIPLE, BLOCK_WEIGHTS // width // _ROW_MULTIPLE * _ROW_MULTIPLE)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
