"""Predicted cost of a calibration on this machine as lines of text; refuses where the disk is too small."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from q3edge.architecture.tensors import count_weights
from q3edge.errors import ResourceError
from q3edge.machine.memory import available_memory
from q3edge.machine.speed import matrix_speed, read_bandwidth
from q3edge.pipeline.predictions import rounding_seconds
from q3edge.pipeline.quantize.forecast import Machine, Workload, forecast
from q3edge.terminal import duration

_LONG = 60.0  # seconds of calibration from which on a shorter way is named


def outlook(load: Workload, work: Path, *, bfloat16: bool, finished: int = 0, plans: int = 1) -> list[str]:
    """Predict time, memory and disk, as lines of text. Not for manifests: the numbers vary with machine and time.

    finished: layers that an earlier process finished in `work`. plans: number of calibrations compared, of which two
    are on the disk at a time. ResourceError: the disk of `work` cannot hold it.
    """
    machine = Machine(matrix_speed(), torch.get_num_threads(), bfloat16)
    cost = forecast(load, machine, finished=finished)
    _require_disk(min(2, plans) * cost.disk_bytes, work)
    done = f", {finished} of {load.config.num_hidden_layers} layers done before" if finished else ""
    times = duration(cost.seconds)
    if plans > 1:
        each = forecast(replace(load, reconstructed=False), machine) if load.reconstructed else cost
        times = f"{duration(each.seconds)} for each of up to {plans} plans and as long to measure what they rest on"
        times += f", then {duration(cost.seconds)} to reconstruct the best" if load.reconstructed else ""
    training = (" with reconstruction" if load.reconstructed else "") + (" and tuning" if load.tuned else "")
    lines = [
        f"calibration{training} on {load.sequences} rows of {load.length} tokens{done}: "
        f"about {times}, {_size(cost.ram_bytes)} of memory, "
        f"{_size(cost.disk_bytes)} of disk"
    ]
    if plans == 1 and not finished and cost.seconds >= _LONG:
        rounding = duration(_rounding_seconds(load))
        lines.append(f"for a first look, --method rtn in place of calibration options rounds in about {rounding}")
    available = available_memory()
    if available is not None and cost.ram_bytes > available:
        lines.append(
            f"warning: {_size(cost.ram_bytes)} of memory are needed, {_size(available)} are available: this may be "
            "very slow, or be killed (the same command goes on from there); close other programs or take --method rtn"
        )
    return lines


def _rounding_seconds(load: Workload) -> float:
    """Seconds of a build of the same format without calibration, as `inspect` predicts them."""
    schemes = [scheme for scheme in load.schemes.values() if scheme is not None]
    name = "int4" if any(scheme.bits < 8 for scheme in schemes) else "int8"
    if any(scheme.activations != "float" for scheme in schemes):
        name = "int8-dynamic"
    return rounding_seconds(name, count_weights(load.config), read_bandwidth())


def _require_disk(needed: int, work: Path) -> None:
    """Raise ResourceError if the disk of `work` lacks space for `needed` bytes, files already in `work` included."""
    for path in work.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be at it, which WorkFolder finds out
            needed -= path.stat().st_size
    free = shutil.disk_usage(work.parent).free
    if needed > free:
        raise ResourceError(
            f"{work.parent}: calibration needs {_size(needed)} of disk there, {_size(free)} are free; "
            "free space, write to another disk or take fewer --samples"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
