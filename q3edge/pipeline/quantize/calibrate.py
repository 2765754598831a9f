"""Calibration as part of `quantize`: the method, the tokens, the folder of unfinished work, the manifest's metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import count_weights, tensor_shapes
from q3edge.artifact import Manifest, Notice, expert_loss
from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.calibration.data import (
    TOKEN_FILE,
    CalibrationSet,
    load_calibration_set,
    load_token_file,
    require_readers,
)
from q3edge.calibration.layers.experts import ENOUGH
from q3edge.calibration.layers.input_group import TensorReport
from q3edge.calibration.layers.layerwise import LayerwiseCalibration
from q3edge.calibration.layers.rounded import LayerResult, ReconstructionReport
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.checkpoint import Checkpoint
from q3edge.defaults import SAMPLES, SEQ_LEN
from q3edge.errors import InputError, UsageError
from q3edge.machine.cpu import has_fast_bfloat16
from q3edge.pipeline.quantize.forecast import Workload
from q3edge.pipeline.quantize.outlook import outlook
from q3edge.quantization.recipe import AUTO, KEEP, Recipe
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.storage.code_digest import code_digest

_CODE = (  # packages that decide the result of a calibration, besides its inputs
    "architecture", "calibration.budget", "calibration.layers", "calibration.rounding", "calibration.training",
    "checkpoint", "quantization", "reference", "storage",
)  # fmt: skip
_MOST_BITS = 1e9  # per weight; any more is as much: a float model has 32
_LARGE_MODEL = 50_000_000  # weights; below, rounding to nearest takes seconds and calibration is asked for by name


@dataclass(frozen=True, slots=True)
class Budget:
    """Size limit of the exported model (ONNX: graph and weights; GGUF: the file): bytes, or bits per weight.

    Exactly one is given.
    """

    size: int | None = None
    bits_per_weight: float | None = None

    def bytes_for(self, config: Qwen3Config) -> int:
        """Bytes that a model of this configuration may take."""
        if self.bits_per_weight is None:
            return self.size or 0
        return int(min(self.bits_per_weight, _MOST_BITS) * count_weights(config) / 8)


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Options of a calibration. texts: none: built in; samples, seq_len: number of rows and tokens in each.

    seed: of the choice among the texts. shares: weight of each area (None: those of Qwen3's evaluation). reconstruct:
    train each layer after it is solved; tune: train scales and norms of the whole model at the end. restart: discard
    unfinished work. budget: a size limit in place of a recipe.
    """

    texts: tuple[Path, ...] = ()
    samples: int = SAMPLES
    seq_len: int = SEQ_LEN
    seed: int = 0
    shares: Mapping[str, float] | None = None
    reconstruct: bool = False
    tune: bool = False
    restart: bool = False
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class SolvedLayers:
    """Result of a calibration by `recipe`; `layers` reads the layers from their files, one at a time.

    scaled_floats: names of the float tensors that a channel scale was folded into. All is empty without a calibration.
    """

    recipe: Recipe
    layers: Callable[[], Iterator[LayerResult]] = lambda: iter(())
    scaled_floats: frozenset[str] = frozenset()
    notices: tuple[Notice, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    tokens: NDArray[np.int64] | None = None
    held_out: int = 0


def work_folder(output: Path) -> Path:
    """Path of the unfinished calibration of `output`: beside it, on the same disk."""
    return output.parent / f".{output.name}.work"


def keeps_work(work: Path, method: str) -> bool:
    """Tell whether work of this method is kept in `work` if it is stopped now; what another command left is not its."""
    return method == "gptq" and work.exists()


def discard_work(output: Path, manifest: Manifest) -> None:
    """Remove the work folder of `output` once it is complete, unless another process works in it by now."""
    if keeps_work(work := work_folder(output), manifest.recipe["method"]):
        WorkFolder.discard(work)


def choose_method(
    checkpoint: Checkpoint, recipe: Recipe, calibration: CalibrationOptions | None
) -> tuple[Recipe, tuple[Notice, ...]]:
    """Decide the method of a recipe. auto: gptq if calibration was asked for or a large model loses much, else rtn.

    InputError: calibration is needed, but the model has no tokenizer. UsageError: rtn with options of it, or
    an embedding model with what is for language models.
    """
    if checkpoint.config.is_embedding:
        _check_for_embedding(recipe, calibration)
    obstacle = _obstacle(checkpoint)
    if recipe.method == "gptq" and obstacle:
        raise InputError(f"{checkpoint.folder}: {obstacle}; choose --method rtn")
    if obstacle and calibration is not None and calibration.budget:
        raise InputError(
            f"{checkpoint.folder}: {obstacle}, so no format can be chosen by --target-size or --target-bpw"
        )
    wanted = calibration is not None and any(
        (
            calibration.texts,
            calibration.reconstruct,
            calibration.tune,
            calibration.budget,
        )
    )
    sized = calibration is not None and (calibration.samples, calibration.seq_len) != (SAMPLES, SEQ_LEN)
    described = sized or (calibration is not None and (calibration.seed or calibration.restart))
    unused = described and recipe.kv_cache != "int8"  # whose scales are measured on that text, whatever the method
    if recipe.method == "rtn" and (wanted or unused):
        raise UsageError(
            "--method rtn uses no text, trains nothing and has no budget: leave out --calibration, --samples, "
            "--seq-len, --seed, --restart, --reconstruct, --tune, --target-size and --target-bpw"
        )
    if recipe.method == KEEP and (wanted or unused):
        raise UsageError(
            f"{checkpoint.folder}: its codes are kept, which uses no text and trains nothing: leave out --calibration, "
            "--samples, --seq-len, --seed, --restart, --reconstruct and --tune, or give a --format to quantize it anew"
        )
    if recipe.method != AUTO:
        return recipe, ()
    if not (wanted or sized or _loses_much(checkpoint, recipe)):
        return replace(recipe, method="rtn"), ()
    if obstacle:
        return replace(recipe, method="rtn"), (Notice("not-calibrated", 1, f"rounded to nearest: {obstacle}"),)
    return replace(recipe, method="gptq"), ()


def _check_for_embedding(recipe: Recipe, calibration: CalibrationOptions | None) -> None:
    if recipe.kv_cache == "int8":
        raise UsageError("--kv int8: an embedding model keeps no keys and values; leave it out")
    if calibration is not None and (calibration.tune or calibration.budget):
        raise UsageError(
            "--tune, --target-size and --target-bpw measure predictions of tokens, and an embedding model makes none; "
            "leave them out, --reconstruct trains its layers"
        )


def _obstacle(checkpoint: Checkpoint) -> str | None:
    if not (checkpoint.side_folder / TOKENIZER_FILE).is_file():
        return f"calibration needs {TOKENIZER_FILE}, which is not there"
    return None


def _loses_much(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Tell whether many weights have 4 bits or fewer, or are multiplied by inputs rounded with one scale per token."""
    schemes, shapes = recipe.resolve(checkpoint.config), tensor_shapes(checkpoint.config)
    coarse = (n for n, scheme in schemes.items() if scheme and (scheme.bits <= 4 or scheme.activations != "float"))
    return sum(math.prod(shapes[name]) for name in coarse) >= _LARGE_MODEL


@contextmanager
def run_calibration(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: CalibrationOptions,
    model_digest: str,
    work: Path,
    *,
    exported: bool = False,
) -> Iterator[SolvedLayers]:
    """Calibrate in `work`, or continue where an earlier process stopped with the same model, recipe and tokens.

    exported: an ONNX model follows while `work` is still there, which the disk has to hold too.
    UsageError: unfinished work of other inputs lies there. ResourceError: another process is at it, or the disk cannot
    hold it, which is found before anything is written.
    """
    tokens = load_tokens(checkpoint, calibration)
    schemes, bfloat16 = recipe.resolve(checkpoint.config), has_fast_bfloat16()
    sequences, length = tokens.token_ids.shape
    load = Workload(
        checkpoint.config, schemes, sequences, length,
        reconstructed=calibration.reconstruct, tuned=calibration.tune,
        exported=exported, int8_cache=recipe.kv_cache == "int8",
    )  # fmt: skip
    inputs = calibration_inputs(model_digest, tokens, calibration) | {"recipe": recipe.digest}
    work_folder = WorkFolder(work, inputs, restart=calibration.restart)
    layers = checkpoint.config.num_hidden_layers
    finished = 0 if calibration.restart else sum(layer < layers for layer in work_folder.finished_layers())
    cost_lines = outlook(load, work, bfloat16=bfloat16, finished=finished)
    with work_folder:
        for line in cost_lines:
            progress.note(line)
        calibrated = LayerwiseCalibration(
            checkpoint,
            schemes,
            tokens.token_ids,
            work_folder,
            bfloat16=bfloat16,
            reconstruct=calibration.reconstruct,
        )
        calibrated.run().close()
        yield solved_layers(recipe, calibrated, tokens)


def calibration_inputs(model_digest: str, tokens: CalibrationSet, calibration: CalibrationOptions) -> dict[str, str]:
    """Inputs that decide the result of a calibration, besides the recipe."""
    return {
        "model": model_digest,
        "calibration tokens": tokens.digest,
        "reconstruct": str(calibration.reconstruct),
        "q3edge's calibration code": code_digest(*_CODE),
        "torch version": torch.__version__,
        "bfloat16": str(has_fast_bfloat16()),
    }


def solved_layers(recipe: Recipe, calibrated: LayerwiseCalibration, tokens: CalibrationSet) -> SolvedLayers:
    """Collect results, notices and metrics of a finished calibration."""
    reports: dict[str, TensorReport] = {}
    reconstructions: dict[int, ReconstructionReport] = {}
    experts: dict[str, dict[str, Any]] = {}
    scaled_floats = set[str]()
    for layer, summary in enumerate(calibrated.summaries()):
        reports |= summary.reports
        if summary.experts is not None:
            experts[str(layer)] = asdict(summary.experts) | _expert_losses(calibrated.config, layer, summary.reports)
        scaled_floats |= {*summary.floats}
        if summary.reconstruction is not None:
            reconstructions[layer] = summary.reconstruction
    metrics: dict[str, Any] = {
        "calibration": tokens.to_json()
        | {"held_out": calibrated.tokens.held_out, "bfloat16": calibrated.tokens.bfloat16},
        "tensors": {name: report.to_json() for name, report in reports.items() if ".experts." not in name},
    }
    if experts:
        metrics["expert_layers"] = experts
    if reconstructions:
        metrics["reconstruction"] = {str(layer): asdict(found) for layer, found in reconstructions.items()}
    notices = tokens.notices + _report_notices(reports, reconstructions.values())
    notices += _expert_notices(calibrated.config, [found["tokens"] for found in experts.values()])
    return SolvedLayers(
        recipe,
        calibrated.results,
        frozenset(scaled_floats),
        notices,
        metrics,
        tokens.token_ids,
        calibrated.tokens.held_out,
    )


def _expert_losses(config: Qwen3Config, layer: int, reports: Mapping[str, TensorReport]) -> dict[str, list[float]]:
    """Mean held-out loss of each expert's matrices by role, in the order of the experts; none where they are float."""
    losses: dict[str, list[float]] = {}
    described = Layer.of(config, layer)
    for group in described.groups:
        found = [reports[name].loss for name in described.names(group) if name in reports]
        if group.expert is not None and found:
            losses.setdefault(expert_loss(group.role), []).append(sum(found) / len(found))
    return losses


def _expert_notices(config: Qwen3Config, tokens: Sequence[Sequence[int]]) -> tuple[Notice, ...]:
    """Notices of experts that saw no token, or few; tokens: of each expert of each layer."""
    counts = [count for layer in tokens for count in layer]
    few = sum(0 < count < ENOUGH * config.hidden_size for count in counts)
    notices = []
    if unseen := counts.count(0):
        detail = "experts saw no calibration token: they were solved for the inputs of all tokens"
        notices.append(Notice("experts-unseen", unseen, detail))
    if few:
        detail = (
            f"experts, of {len(counts)}, saw fewer than {ENOUGH} tokens for each input channel; all tokens stand in"
        )
        notices.append(Notice("experts-seen-rarely", few, detail))
    return tuple(notices)


def require_texts(texts: Sequence[Path]) -> None:
    """Check, before any work, that calibration texts are there and that the libraries that read them are installed.

    InputError, ResourceError: they are not. What is in them is found when they are read.
    """
    if not _is_token_file(texts):
        require_readers(texts)


def _is_token_file(texts: Sequence[Path]) -> bool:
    return len(texts) == 1 and texts[0].suffix == TOKEN_FILE


def load_tokens(checkpoint: Checkpoint, calibration: CalibrationOptions) -> CalibrationSet:
    """Load the tokens of a calibration: a .npy as it is, texts by the model's own tokenizer and chat template."""
    if _is_token_file(calibration.texts):
        config = checkpoint.config
        return load_token_file(calibration.texts[0], config.vocab_size, config.context_length)
    tokenizer = Tokenizer.load(checkpoint.side_folder, checkpoint.config.vocab_size)
    length, context = calibration.seq_len, checkpoint.config.context_length
    if length == SEQ_LEN and context < length:  # nobody asked for the default
        progress.note(f"calibration rows have {context} tokens, the model's whole context")
        length = context
    return load_calibration_set(
        calibration.texts,
        tokenizer,
        ChatTemplate.load(checkpoint.side_folder),
        samples=calibration.samples,
        seq_len=length,
        seed=calibration.seed,
        shares=calibration.shares,
        context=context,
    )


def _report_notices(
    reports: Mapping[str, TensorReport], reconstructions: Iterable[ReconstructionReport]
) -> tuple[Notice, ...]:
    damped = [report.damping for report in reports.values() if report.damping_retries]
    dead = sum(report.dead_channels for report in reports.values())
    notices = []
    if damped:
        detail = f"matrices needed more damping than usual, up to {max(damped):g}: their inputs are nearly dependent"
        notices.append(Notice("damping-raised", len(damped), detail))
    if dead:
        notices.append(Notice("dead-channels", dead, "input channels were zero for every calibration token"))
    unmoved = sum(found.loss_after == found.loss_before for found in reconstructions)
    if unmoved:
        notices.append(Notice("not-reconstructed", unmoved, "layers came no closer by training and stay as solved"))
    return tuple(notices)
