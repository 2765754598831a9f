"""Float checkpoint -> quantized checkpoint, streamed: peak memory does not grow with the number of layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import count_weights, tensor_shapes
from q3edge.artifact import Manifest, Notice, hub_id, staged_directory
from q3edge.artifact.side_files import RECIPE_FILE, copy_side_files
from q3edge.calibration.layers.kv_scales import kv_scales
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.calibration.rounding.scales import LostGroups
from q3edge.checkpoint import Checkpoint, open_float_model, open_quantized_model
from q3edge.checkpoint.compressed_tensors import QuantizedWriter, write_kv_scales
from q3edge.errors import InputError, UsageError, resumable
from q3edge.evaluation.validation.lost_scales import LOST_SCALES, worst_tensors
from q3edge.exporters.onnx.stored import weight_bytes
from q3edge.formats import ExpertOperators, Program
from q3edge.machine.tool_versions import tool_versions
from q3edge.pipeline.quantize.calibrate import (
    CalibrationOptions,
    SolvedLayers,
    choose_method,
    discard_work,
    keeps_work,
    load_tokens,
    run_calibration,
    work_folder,
)
from q3edge.pipeline.quantize.for_vllm import chosen_for_vllm
from q3edge.pipeline.quantize.kept_codes import keep_codes
from q3edge.pipeline.quantize.tune import tune_folder
from q3edge.pipeline.runnable import check_runnable
from q3edge.quantization.recipe import AUTO, KEEP, Recipe
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
    program: Program | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Quantize MODEL (folder or hub id) into `output`; returns the manifest written there.

    program: what the codes are exported for (None: an ONNX model). InputError: a scheme that it does not have.
    """
    with (
        open_float_model(model) as checkpoint,
        staged_directory(output, overwrite=overwrite, inputs=checkpoint.folders) as staging,
    ):
        check_runnable(checkpoint)
        manifest = write_quantized(checkpoint, recipe, staging, calibration, output=output, program=program)
    discard_work(output, manifest)
    return manifest


def write_quantized(
    checkpoint: Checkpoint,
    recipe: Recipe,
    folder: Path,
    calibration: CalibrationOptions | None = None,
    *,
    output: Path,
    program: Program | None = None,
    exported: ExpertOperators | None = None,
) -> Manifest:
    """Quantize into the existing empty `folder`, which becomes `output`; a calibration's finished layers lie beside it.

    program: as of `quantize_checkpoint`. exported: an ONNX model with these operators of experts is made from
    `folder` next, beside it; counted in the forecast of disk space. InputError: they cannot have the recipe's schemes.
    """
    work = work_folder(output)
    told = (chosen_for_vllm(checkpoint.config, str(checkpoint.folder)),) if program == "vllm" else ()
    has_budget = calibration is not None and calibration.budget is not None  # which chooses the schemes
    shadowed = recipe.without_effect(checkpoint.config)
    kept = keep_codes(checkpoint, replace(recipe, method=AUTO) if has_budget and recipe.method == KEEP else recipe)
    recipe = kept.recipe
    recipe, left_float = recipe.for_model(checkpoint.config).fitted_to(checkpoint.config)
    recipe, notices = choose_method(checkpoint, recipe, calibration)
    notices = (*told, *notices, *kept.notices)
    if shadowed:
        rules = ", ".join(f"{number} ({match})" for number, match in shadowed.items())
        detail = f"recipe rules that have no effect, as earlier ones decide all of their tensors: {rules}"
        notices += (Notice("rule-without-effect", len(shadowed), detail),)
    schemes = None if has_budget else recipe.resolve(checkpoint.config)
    notices += _exportable(checkpoint.config, schemes, exported)
    size_for = _sizes_for(program, checkpoint, output, recipe)
    if schemes is not None:
        size_for(schemes)  # before the work: a scheme may be refused
    if left_float:
        detail = f"tables stay float, as no group size divides their width: {', '.join(left_float)}"
        notices += (Notice("no-group-size-fits", len(left_float), detail),)
    digest = checkpoint.digest()
    with (
        resumable(lambda: keeps_work(work, recipe.method)),
        _calibration_for(
            checkpoint, recipe, calibration or CalibrationOptions(), digest, output, program, exported is not None
        ) as found,
    ):
        schemes = found.recipe.resolve(checkpoint.config)
        tokens = found.tokens
        if tokens is None and recipe.kv_cache == "int8":  # before the work: a text may be of no use
            tokens = load_tokens(checkpoint, calibration or CalibrationOptions()).token_ids
        lost = _write_weights(checkpoint, schemes, kept.schemes, found, folder)
        metrics = size_metrics(checkpoint.config, schemes) | found.metrics | lost_scales(checkpoint, lost)
        metrics |= size_for(schemes)
        if base_model := hub_id(checkpoint.folder):
            metrics["base_model"] = base_model
        if calibration is not None and calibration.tune and found.tokens is not None:
            metrics["tuning"] = tune_folder(checkpoint, folder, found.tokens, found.held_out)
        for line in _training_summary(metrics):
            progress.note(line)
        chosen = replace(found.recipe, kv_cache=recipe.kv_cache)
        if recipe.kv_cache == "int8" and tokens is not None:
            with open_quantized_model(folder) as quantized:
                write_kv_scales(folder, kv_scales(quantized, tokens))
        notices += (
            checkpoint.notices + copy_side_files(checkpoint.side_folder, folder, checkpoint.folder) + found.notices
        )
        if "allocation" in metrics:  # after the copy: the model's folder may hold a recipe of its own
            (folder / RECIPE_FILE).write_text(chosen.to_toml(), encoding="utf-8")
        if lost:
            detail = "groups have a scale that cannot be stored: their weights became zeros or were clipped; "
            count = sum(groups.lost for groups in lost.values())
            notices += (Notice("scale-out-of-range", count, detail + worst_tensors(metrics[LOST_SCALES])),)
        manifest = Manifest(
            kind="quantized",
            parent_digest=digest,
            recipe=chosen.to_json(),
            notices=notices,
            metrics=metrics,
            versions=tool_versions("torch", "numpy"),
        )
        return manifest.save(folder)


def _exportable(
    config: Qwen3Config, schemes: Mapping[str, Scheme | None] | None, exported: ExpertOperators | None
) -> tuple[Notice, ...]:
    """Refuse what an export that follows will; where none does, a notice: the weights may be for other programs."""
    from q3edge.exporters.onnx.export import check_exportable  # loads the exporter, which nothing else here needs

    try:
        check_exportable(config, schemes, exported or "qmoe")
    except InputError as error:
        if exported:
            raise
        return (Notice("not-exportable", 1, f"`q3edge export` will refuse this checkpoint: {error}"),)
    return ()


def _sizes_for(
    program: Program | None, checkpoint: Checkpoint, output: Path, recipe: Recipe
) -> Callable[[Mapping[str, Scheme | None]], dict[str, Any]]:
    """Function of the tensors' schemes that gives the metrics of what is exported for `program`; none without one.

    It raises InputError where a scheme does not fit there. UsageError: the recipe is for an ONNX model alone.
    """
    if program is None:
        return lambda _: {}
    if recipe.kv_cache == "int8":
        raise UsageError(f"--for {program}: an int8 KV cache is for ONNX models; leave out --kv")
    if program == "vllm":
        return lambda _: {"exported_for": program}
    from q3edge.pipeline.quantize.targets import target_for  # loads the exporters

    target = target_for(program, checkpoint, output)
    return lambda schemes: {"exported_for": program, "exported_bytes": target.model_bytes(schemes)}


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
    output: Path,
    program: Program | None,
    exported: bool,
) -> AbstractContextManager[SolvedLayers]:
    """Context of the solving before the weights are written: none (rtn), a calibration, or one within a budget."""
    if recipe.method != "gptq":
        return nullcontext(SolvedLayers(recipe))
    work, int8_cache = work_folder(output), recipe.kv_cache == "int8"
    if calibration.budget is None:
        return run_calibration(checkpoint, recipe, calibration, digest, work, exported=exported)
    from q3edge.pipeline.quantize.allocate import search_plans  # these load the exporters, which only budgets need
    from q3edge.pipeline.quantize.targets import target_for

    target = target_for(program, checkpoint, output, int8_cache=int8_cache)
    return search_plans(
        checkpoint, calibration, calibration.budget, target, digest, work, exported=exported, int8_cache=int8_cache
    )


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
    kept: Mapping[str, Scheme],
    found: SolvedLayers,
    folder: Path,
) -> dict[str, LostGroups]:
    """Write kept codes and solved layers, and round everything else; returns the tensors of which groups were lost."""
    shapes = tensor_shapes(checkpoint.config)
    dtypes = {name: checkpoint.dtype(name) for name, scheme in schemes.items() if scheme is None}
    dtypes |= dict.fromkeys(
        found.scaled_floats, "F32"
    )  # a channel scale was folded in, which narrower types would round
    lost: defaultdict[str, LostGroups] = defaultdict(LostGroups)
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
                    lost[name] += LostGroups.count(checkpoint.read(name, rows), block)
            solved |= {*result.floats, *result.tensors}
            advance(sum(math.prod(shapes[name]) for name in (*result.floats, *result.tensors)))
        for name in (name for name in dtypes if name not in solved):
            for rows in row_blocks(*shapes[name]):
                writer.add_float(name, checkpoint.read(name, rows))
            advance(math.prod(shapes[name]))
        for name, scheme in kept.items():
            for rows in row_blocks(*shapes[name]):
                writer.add(name, checkpoint.matrices[name].codes(rows).regrouped(scheme))
            advance(math.prod(shapes[name]))
        solved |= {*kept}
        rest = {name: scheme for name, scheme in schemes.items() if scheme is not None and name not in solved}
        for name, tensor, found_lost in _round_rows(checkpoint, rest):
            writer.add(name, tensor)
            lost[name] += found_lost
            advance(tensor.codes.size)
    return {name: groups for name, groups in lost.items() if groups.lost}


def _round_rows(
    checkpoint: Checkpoint, schemes: Mapping[str, Scheme]
) -> Iterator[tuple[str, QuantizedTensor, LostGroups]]:
    """Round row blocks of all tensors to nearest, in order; yields name, block, groups that were lost."""
    shapes = tensor_shapes(checkpoint.config)

    def solve(block: tuple[str, Scheme, slice]) -> tuple[str, QuantizedTensor, LostGroups]:
        name, scheme, rows = block
        weights = checkpoint.read(name, rows)
        tensor = round_to_nearest(weights, scheme)
        return name, tensor, LostGroups.count(weights, tensor)

    blocks = ((name, scheme, rows) for name, scheme in schemes.items() for rows in row_blocks(*shapes[name]))
    return ordered_map(solve, blocks)


def lost_scales(checkpoint: Checkpoint, lost: Mapping[str, LostGroups]) -> dict[str, Any]:
    """Lost groups for the manifest, with the share of their tensor's squared weights; empty where there are none."""
    if not lost:
        return {}
    shapes = tensor_shapes(checkpoint.config)
    found = {}
    for name, groups in lost.items():
        blocks = (checkpoint.read(name, rows) for rows in row_blocks(*shapes[name]))
        squares = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
        found[name] = {"lost": groups.lost, "groups": groups.groups, "share": groups.squares / (squares or 1.0)}
    return {LOST_SCALES: found}


def row_blocks(rows: int, width: int = 1) -> Iterator[slice]:
    """Consecutive row ranges of at most BLOCK_WEIGHTS weights (and at least 32 rows)."""
    step = max(_ROW_MULTIPLE, BLOCK_WEIGHTS // width // _ROW_MULTIPLE * _ROW_MULTIPLE)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
