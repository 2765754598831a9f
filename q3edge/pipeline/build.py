"""Quantize + export + validate: one folder that appears only if every step succeeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from q3edge.artifact import InputState, Manifest, staged_directory
from q3edge.artifact.side_files import require_tokenizer
from q3edge.checkpoint import Checkpoint, ModelFolder, open_float_model, open_quantized_model
from q3edge.checkpoint.fewer_experts import choosing
from q3edge.defaults import MAX_TOKENS
from q3edge.errors import resumable
from q3edge.evaluation.cache import EvaluationCache
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.windows import Window, read_texts
from q3edge.evaluation.validation.embeddings import EmbeddingReport, validate_embeddings
from q3edge.evaluation.validation.results import ValidationReport, require_passed
from q3edge.evaluation.validation.validate import validate_artifact
from q3edge.exporters.onnx.export import check_exportable
from q3edge.formats import ExpertOperators
from q3edge.pipeline.export import finish_artifact, write_artifact
from q3edge.pipeline.measure.checks import check_export
from q3edge.pipeline.measure.validate import refuse_max_kl, text_passages, text_windows
from q3edge.pipeline.quantize.calibrate import CalibrationOptions, discard_work, keeps_work, work_folder
from q3edge.pipeline.quantize.quantize import write_quantized
from q3edge.pipeline.runnable import check_runnable
from q3edge.quantization.recipe import Recipe
from q3edge.storage.whole_files import partial_folder


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Result of a build: the manifest in the folder and the full validation report."""

    manifest: Manifest
    report: ValidationReport | EmbeddingReport


def build_artifact(
    model: str,
    output: Path,
    recipe: Recipe | None,
    calibration: CalibrationOptions | None = None,
    *,
    texts: Sequence[Path] = (),
    windows: Sequence[Window] = (),
    reference_states: EvaluationCache | None = None,
    max_tokens: int = MAX_TOKENS,
    max_kl: float | None = None,
    threads: int | None = None,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
    experts_per_token: int | None = None,
    overwrite: bool = False,
) -> BuildResult:
    """Build `output` from MODEL (folder or hub id); `recipe` None keeps it float.

    It is validated on `windows`, or else on `texts` (none: built in), which are read before any work.
    reference_states: keeps the float model's hidden states, so that another build on the same windows does not compute
    them again (None: not kept). last_logits, experts, experts_per_token: as in `export_artifact`. ValidationError: a
    check failed; then `output` is as it was.
    """
    read_texts(texts)  # before the model, which may be a download
    manifest: Manifest | None = None
    with (
        resumable(lambda: manifest is not None and keeps_work(work_folder(output), manifest.recipe["method"])),
        open_float_model(model) as checkpoint,
        staged_directory(output, overwrite=overwrite, inputs=checkpoint.folders) as staging,
    ):
        state = InputState(checkpoint.folders)
        check_exportable(checkpoint.config)
        choosing(checkpoint, experts_per_token)  # before the work: it may be refused
        require_tokenizer(checkpoint.side_folder, checkpoint.folder)
        check_runnable(checkpoint)
        is_embedding, given = (
            checkpoint.config.is_embedding,
            (checkpoint.side_folder, checkpoint.config, texts, max_tokens),
        )
        if is_embedding:
            refuse_max_kl(max_kl)
        passages = text_passages(*given) if is_embedding else []
        chosen = windows or (() if is_embedding else text_windows(*given))
        with _quantize_into(checkpoint, recipe, calibration, output, experts) as source:
            manifest = write_artifact(
                source, staging, last_logits=last_logits, experts=experts, experts_per_token=experts_per_token
            )
            manifest = manifest.save(staging)  # a decoder opens no folder without one
            check_export(staging, choosing(source, experts_per_token))
        report: ValidationReport | EmbeddingReport
        if is_embedding:
            report = validate_embeddings(staging, checkpoint, passages, threads=threads)
        else:
            kept = None
            if reference_states:
                kept = FloatReference(checkpoint, checkpoint.digest(), reference_states, state.check_unchanged)
            report = validate_artifact(staging, checkpoint, chosen, float_model=kept, max_kl=max_kl, threads=threads)
        require_passed(str(output), report.checks)
        manifest = finish_artifact(staging, manifest.with_metrics({report.KEY: report.to_json()}))
    discard_work(output, manifest)
    return BuildResult(manifest, report)


@contextmanager
def _quantize_into(
    checkpoint: Checkpoint,
    recipe: Recipe | None,
    calibration: CalibrationOptions | None,
    output: Path,
    experts: ExpertOperators,
) -> Iterator[ModelFolder]:
    """Quantize the checkpoint into a temporary folder on the output's disk; unchanged if `recipe` is None."""
    if recipe is None:
        yield checkpoint
        return
    with partial_folder(output.with_name(f"{output.name}.quantized")) as folder:
        write_quantized(checkpoint, recipe, folder, calibration, output=output, exported=experts)
        with open_quantized_model(folder) as quantized:
            yield quantized
