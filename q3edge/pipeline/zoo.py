"""The Qwen3 family on this machine: what each format of each model takes, what fits, and which one to begin with.

Nothing is downloaded. Figures of the models ship with the package, as `inspect` makes them from a checkpoint's headers
(tools/zoo_figures.py); RAM, speed and time are predicted from them for this machine as `inspect` and `build` do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from q3edge.architecture.tensors import count_active_weights, count_weights
from q3edge.checkpoint.known_models import KnownModel, known_model, known_models, nearest_names
from q3edge.defaults import FORMAT, MIN_TOKENS_PER_SECOND
from q3edge.errors import UsageError
from q3edge.machine.cpu import default_threads, has_fast_bfloat16, slow_block_products
from q3edge.machine.memory import available_memory
from q3edge.machine.speed import matrix_speed, read_bandwidth
from q3edge.pipeline.predictions import CalibrationWork, Footprint, Prediction, calibration_seconds, predict
from q3edge.terminal import duration

_TRIED = (FORMAT, "int4-fast")  # the default, and what is left where that does not fit
MEMORY, DISK, SPEED = "memory", "disk", "speed"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that a model may take, in memory and on the disk (None: unknown, so no limit), and the least tokens/s."""

    ram_bytes: int | None
    disk_bytes: int | None
    min_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """What predictions rest on: bytes of memory (None: unknown) and of disk that are free, threads, bytes/s that one
    core reads, operations/s of matrix products on all cores.
    """

    memory: int | None
    disk: int
    threads: int
    bandwidth: float
    products: float
    bfloat16: bool
    slow_block_products: str  # why 4-bit products are slow here, empty where they are not


@dataclass(frozen=True, slots=True)
class Making:
    """What a calibrated build takes on this machine; disk_bytes with the download. here: whether there is room."""

    seconds: float
    ram_bytes: int
    disk_bytes: int
    here: bool


@dataclass(frozen=True, slots=True)
class ZooFormat:
    """A format of a model here. lacks: which limits it exceeds, of "memory", "disk" and "speed"; none: it fits.

    making: what it takes to make it as `build` does by default; None where nothing is calibrated.
    """

    prediction: Prediction
    making: Making | None
    lacks: tuple[str, ...]

    @property
    def make_seconds(self) -> float:
        """Seconds of `build`, without the download and the comparison with the float model."""
        return self.prediction.build_seconds if self.making is None else self.making.seconds

    @property
    def made_here(self) -> bool:
        """Whether this machine has room to make it."""
        return self.making is None or self.making.here

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self.prediction) | {
            "making": None if self.making is None else asdict(self.making),
            "fits": not self.lacks,
            "lacks": list(self.lacks),
        }


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model of the family here. formats: by name; fitting: the one to take, None where none fits."""

    known: KnownModel
    formats: Mapping[str, ZooFormat]
    fitting: str | None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return count_weights(self.known.config)

    @property
    def active_weights(self) -> int:
        """Number of weights that one token makes use of."""
        return round(count_active_weights(self.known.config))

    @property
    def shown(self) -> ZooFormat:
        """The format that fits, or else the default."""
        return self.formats[self.fitting or FORMAT]

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        known = self.known
        return {
            "name": known.name,
            "hub_id": known.hub_id,
            "kind": known.kind,
            "thinks": known.thinks,
            "license": known.license,
            "quantized": dict(known.quantized),
            "weights": self.weights,
            "active_weights": self.active_weights,
            "context": known.config.context_length,
            "download_bytes": known.download_bytes,
            "config": asdict(known.config),
            "fitting": self.fitting,
            "formats": [found.to_json() for found in self.formats.values()],
        }


@dataclass(frozen=True, slots=True)
class Zoo:
    """Models of the family on this machine, and a verdict in words."""

    machine: ThisMachine
    limits: Limits
    models: tuple[ZooModel, ...]
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return {
            "verdict": self.verdict,
            "machine": asdict(self.machine),
            "limits": asdict(self.limits),
            "models": [model.to_json() for model in self.models],
        }


def visit_zoo(
    name: str | None = None,
    *,
    ram_bytes: int | None = None,
    disk_bytes: int | None = None,
    min_tokens_per_second: float = MIN_TOKENS_PER_SECOND,
) -> Zoo:
    """Predict every format of the model `name`, or of the whole family.

    ram_bytes, disk_bytes: what a model may take (None: what is free here, on the disk of the current folder).
    UsageError: there is no such model; the nearest names are in it.
    """
    chosen = known_models() if name is None else (_named(name),)
    machine = ThisMachine(
        available_memory(),
        shutil.disk_usage(Path.cwd()).free,
        default_threads(),
        read_bandwidth(),
        matrix_speed(),
        has_fast_bfloat16(),
        slow_block_products() or "",
    )
    limits = Limits(
        machine.memory if ram_bytes is None else ram_bytes,
        machine.disk if disk_bytes is None else disk_bytes,
        min_tokens_per_second,
    )
    by_shape: dict[str, ZooModel] = {}
    for known in chosen:
        by_shape.setdefault(known.shape, _judged(known, machine, limits))
    models = tuple(replace(by_shape[known.shape], known=known) for known in chosen)
    return Zoo(machine, limits, models, _verdict(models) if name is None else _verdict_of(models[0]))


def _named(name: str) -> KnownModel:
    if (found := known_model(name)) is None:
        near = nearest_names(name)
        asked = f"did you mean {', '.join(near)}?" if near else "`q3edge zoo` lists all"
        raise UsageError(f"{name}: no model of the Qwen3 family by this name; {asked}")
    return found


@cache
def _figures() -> dict[str, Any]:
    """Figures by shape and format."""
    found: dict[str, Any] = json.loads((files("q3edge.data") / "zoo_figures.json").read_text(encoding="utf-8"))
    return found


def _judged(known: KnownModel, machine: ThisMachine, limits: Limits) -> ZooModel:
    formats = {}
    for name, figures in _figures()[known.shape].items():
        prediction = predict(name, known.config, Footprint(**figures["footprint"]), machine.bandwidth)
        making = _making(known, figures, machine) if "making" in figures else None
        formats[name] = ZooFormat(prediction, making, _lacks(prediction, limits))
    return ZooModel(known, formats, next((name for name in _TRIED if not formats[name].lacks), None))


def _making(known: KnownModel, figures: Mapping[str, Any], machine: ThisMachine) -> Making:
    seconds = calibration_seconds(
        CalibrationWork(**figures["calibration"]), machine.products, bfloat16=machine.bfloat16
    )
    by_threads = {int(threads): size for threads, size in figures["making"]["ram_bytes"].items()}
    ram = by_threads[min((n for n in by_threads if n >= machine.threads), default=max(by_threads))]
    disk = figures["making"]["disk_bytes"] + known.download_bytes
    has_memory = machine.memory is None or ram <= machine.memory
    return Making(seconds, ram, disk, here=has_memory and disk <= machine.disk)


def _lacks(prediction: Prediction, limits: Limits) -> tuple[str, ...]:
    speed = prediction.tokens_per_second
    exceeded = {
        MEMORY: limits.ram_bytes is not None and prediction.ram_bytes > limits.ram_bytes,
        DISK: limits.disk_bytes is not None and prediction.disk_bytes > limits.disk_bytes,
        SPEED: speed is not None and speed < limits.min_tokens_per_second,
    }
    return tuple(name for name, is_exceeded in exceeded.items() if is_exceeded)


def _verdict(models: Sequence[ZooModel]) -> str:
    """Name the largest model to chat with that fits and can be made here, those alike, and larger ones that fit."""
    chat = [model for model in models if model.known.kind == "chat model"]
    fitting = [model for model in chat if model.fitting]
    if not fitting:
        least = min(chat, key=lambda model: model.weights)
        return f"no model fits: even {least.known.name} lacks {_lacking(least)}"
    made_here = [model for model in fitting if model.shown.made_here]
    best = max(made_here or fitting, key=lambda model: model.weights)
    words = f"begin with {_alike(best, fitting)}: the largest that fits{_and_is_made_here(best)}, {_cost(best)}"
    larger = max(fitting, key=lambda model: model.weights)
    if larger.weights > best.weights:
        words += f". {_alike(larger, fitting)} would fit too, {_cost(larger)}"
    return words


def _verdict_of(model: ZooModel) -> str:
    if model.fitting is None:
        return f"{model.known.name} does not fit: it lacks {_lacking(model)}"
    return f"{model.known.name} fits, {_cost(model)}"


def _alike(model: ZooModel, others: Sequence[ZooModel]) -> str:
    """Name of a model, and those of the same shape."""
    alike = [other.known.name for other in others if other.known.shape == model.known.shape and other is not model]
    return model.known.name + (f" ({', '.join(alike)} alike)" if alike else "")


def _and_is_made_here(model: ZooModel) -> str:
    return " and is made here" if model.shown.made_here else ""


def _lacking(model: ZooModel) -> str:
    smallest = model.formats[_TRIED[-1]]
    found = smallest.prediction
    have = {
        MEMORY: f"memory ({_gigabytes(found.ram_bytes)})",
        DISK: f"disk ({_gigabytes(found.disk_bytes)})",
        SPEED: f"speed ({found.tokens_per_second or 0:.1f} tokens/s)",
    }
    return f"{' and '.join(have[name] for name in smallest.lacks)} as {found.format}, the smallest format"


def _cost(model: ZooModel) -> str:
    said = model.shown.prediction
    speed = "" if said.tokens_per_second is None else f", about {said.tokens_per_second:.2g} tokens/s"
    takes = f"{_gigabytes(said.disk_bytes)} on disk, about {_gigabytes(said.ram_bytes)} of memory"
    return f"as {said.format}: {takes}{speed}{_made(model.shown)}"


def _made(found: ZooFormat) -> str:
    making = found.making
    if making is None:
        return ""
    takes = f"{_gigabytes(making.ram_bytes)} of memory and {_gigabytes(making.disk_bytes)} of disk with the download"
    if making.here:
        return f"; made in about {duration(making.seconds)}, with {takes}"
    return f"; to be made elsewhere, with {takes}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.{1 if size < 1e11 else 0}f} GB"
