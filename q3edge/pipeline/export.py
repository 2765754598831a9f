"""Checkpoint, float or quantized -> ONNX artifact: graph, tokenizer, configurations, manifest and model card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from q3edge.architecture.config import MoeConfig, Qwen3Config
from q3edge.architecture.layer import layers_of
from q3edge.artifact import (
    DATA_FILE,
    MODEL_FILE,
    ArtifactKind,
    Manifest,
    Notice,
    hub_id,
    manifest_digest,
    staged_directory,
)
from q3edge.artifact.side_files import TOKENIZER_FILE, copy_side_files, write_float_config
from q3edge.checkpoint import Checkpoint, ModelFolder, open_model
from q3edge.checkpoint.compressed_tensors import QuantizedCheckpoint, read_kv_scales
from q3edge.checkpoint.fewer_experts import choosing
from q3edge.errors import UsageError
from q3edge.exporters.genai import write_genai_config
from q3edge.exporters.onnx.export import export_decoder
from q3edge.exporters.tokenizer_config import widen_tokenizer_config
from q3edge.formats import ExpertOperators
from q3edge.machine.tool_versions import tool_versions
from q3edge.pipeline.runnable import check_runnable
from q3edge.quantization.recipe import Recipe
from q3edge.report.model_card import write_model_card
from q3edge.runtime.text.tokenizer import Tokenizer

# Tells transformers.js where the weights are that model.onnx refers to, and to load model.onnx: in a browser it would
# ask for model_quantized.onnx.
_TRANSFORMERS_JS = {"transformers.js_config": {"dtype": "fp32", "use_external_data_format": {"model.onnx": 1}}}
_LAST_LOGITS = Notice(
    "last-logits", 1, "logits of the last position only: other runtimes than q3edge cannot score texts with this model"
)
_PLAIN_EXPERTS = "layers have an MLP for each expert in place of onnxruntime's operator: for other runtimes, and slower"
_EXPERTS_BY_BLOCK = (
    "matrices of experts read int8 activations with a scale for each block of up to 256 values, not for each token: "
    "onnxruntime's operator for experts has no other 8 bits"
)


def export_artifact(
    source: str,
    output: Path,
    *,
    as_float: bool = False,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
    experts_per_token: int | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Export a QDIR, or with `as_float` a float MODEL, into `output`; returns the manifest written there.

    last_logits: of the last position only, for runtimes that cannot ask for it; q3edge reads all the same.
    experts: "plain" for runtimes without onnxruntime's operators for experts. experts_per_token: fewer than the model
    was trained with (None: as many).

    The model is not run here, so memory stays at one block of weights; `build` and `validate` run it.
    UsageError: a float MODEL without `as_float`, or a QDIR with it. InputError: a QDIR that was changed.
    """
    with (
        open_source(source, as_float) as checkpoint,
        staged_directory(output, overwrite=overwrite, inputs=checkpoint.folders) as staging,
    ):
        manifest = write_artifact(
            checkpoint, staging, last_logits=last_logits, experts=experts, experts_per_token=experts_per_token
        )
        return finish_artifact(staging, manifest)


@contextmanager
def open_source(source: str, as_float: bool) -> Iterator[ModelFolder]:
    """Open what is to be exported and check all of it; arguments and errors as `export_artifact`."""
    with open_model(source) as checkpoint:
        quantized = isinstance(checkpoint, QuantizedCheckpoint)
        if quantized == as_float:
            raise UsageError(
                f"{source}: is quantized already, --format float does not apply"
                if quantized
                else f"{source}: is {_what(checkpoint)}; quantize it first (or `q3edge build`), or add --format float"
            )
        if quantized:
            Manifest.load(checkpoint.folder).verify(checkpoint.folder)
        check_runnable(checkpoint)
        yield checkpoint


def _what(checkpoint: ModelFolder) -> str:
    foreign = isinstance(checkpoint, Checkpoint) and checkpoint.matrices
    return "a checkpoint that another tool quantized" if foreign else "a float checkpoint"


def _dequantized(source: ModelFolder) -> Iterator[Notice]:
    """Yield a notice of matrices whose codes become floats."""
    matrices = source.matrices.values() if isinstance(source, Checkpoint) else ()
    for label, count in Counter(matrix.label for matrix in matrices if not matrix.holds_floats).items():
        yield Notice(
            "dequantized", count, f"matrices of {label} are read as floats; `q3edge build` keeps codes that fit"
        )


def write_artifact(
    source: ModelFolder,
    folder: Path,
    *,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
    experts_per_token: int | None = None,
) -> Manifest:
    """Export into the existing empty `folder`, all files but the model card; the manifest returned is not saved yet.

    UsageError: last_logits of an embedding model, which gives none; plain experts of a model without any; more experts
    a token than it was trained with.
    """
    if experts == "plain" and source.config.moe is None:
        raise UsageError("--experts plain: the model has no experts; leave it out")
    if last_logits and source.config.is_embedding:
        raise UsageError("--last-logits: an embedding model gives no logits; leave it out")
    weights, own = choosing(source, experts_per_token), source.config.moe
    fewer = weights.config.moe if own is not None and weights.config != source.config else None
    kv_scales = read_kv_scales(source.folder, source.config) if isinstance(source, QuantizedCheckpoint) else None
    export_decoder(weights, folder, kv_scales=kv_scales, last_logits=last_logits, experts=experts)
    changed = {} if fewer is None else {"num_experts_per_tok": fewer.num_experts_per_tok}
    write_float_config(source.raw_config, folder, **_TRANSFORMERS_JS, **changed)
    is_embedding = source.config.is_embedding
    notices = (
        *source.notices,
        *copy_side_files(source.side_folder, folder, source.folder),
        *widen_tokenizer_config(folder),
        *(_end_token(source.config, folder) if is_embedding else write_genai_config(source.config, folder)),
        *((_LAST_LOGITS,) if last_logits else ()),
        *_expert_notices(source, experts),
        *_dequantized(source),
        *(() if fewer is None or own is None else (_fewer_experts(source, fewer, own),)),
    )
    recipe: Mapping[str, Any] = Recipe((), "float").to_json()
    parent = source.digest()
    metrics: dict[str, Any] = {}
    if isinstance(source, QuantizedCheckpoint):
        quantized = Manifest.load(source.folder)
        recipe, metrics, parent = quantized.recipe, dict(quantized.metrics), manifest_digest(source.folder)
        notices = (*quantized.notices, *(notice for notice in notices if notice not in quantized.notices))
    elif base_model := hub_id(source.folder):
        metrics["base_model"] = base_model
    if source.config.moe is not None:
        metrics["experts"] = experts
    if fewer is not None and own is not None:
        metrics["experts_per_token"] = {"chosen": fewer.num_experts_per_tok, "model": own.num_experts_per_tok}
    metrics["model_bytes"] = sum((folder / name).stat().st_size for name in (MODEL_FILE, DATA_FILE))
    versions = tool_versions("onnx", "onnx-ir", "onnxruntime", "torch", "numpy")
    kind: ArtifactKind = "embedding" if is_embedding else "onnx"
    return Manifest(kind, parent, recipe, notices=notices, metrics=metrics, versions=versions)


def _expert_notices(source: ModelFolder, experts: ExpertOperators) -> Iterator[Notice]:
    """Yield what the operators of experts do otherwise than the schemes say, or slower than could be."""
    layers = [layer for layer in layers_of(source.config) if layer.of_experts]
    if layers and experts == "plain":
        yield Notice("plain-experts", len(layers), _PLAIN_EXPERTS)
        return
    schemes = (source.scheme(layer.name(field)) for layer in layers for field in layer.of_experts)
    if by_token := sum(scheme is not None and scheme.activations == "int8_per_token" for scheme in schemes):
        yield Notice("experts-by-block", by_token, _EXPERTS_BY_BLOCK)


def _fewer_experts(source: ModelFolder, fewer: MoeConfig, own: MoeConfig) -> Notice:
    detail = (
        f"layers send each token to {fewer.num_experts_per_tok} experts, in place of the {own.num_experts_per_tok} "
        "that the model was trained with: faster, and further from it"
    )
    return Notice("fewer-experts", sum(map(source.config.is_moe_layer, range(source.config.num_hidden_layers))), detail)


def _end_token(config: Qwen3Config, folder: Path) -> tuple[Notice, ...]:
    """Notice of an embedding model whose tokenizer adds no end token, as those of the first days of Qwen3-Embedding."""
    if not (folder / TOKENIZER_FILE).exists() or Tokenizer.load(folder, config.vocab_size).encode_whole(""):
        return ()
    detail = (
        f"{TOKENIZER_FILE} adds no end token, which Qwen3-Embedding was trained with: a text's last word makes its "
        "vector; download the tokenizer again"
    )
    return (Notice("no-end-token", 1, detail),)


def finish_artifact(folder: Path, manifest: Manifest) -> Manifest:
    """Write the model card from all that was measured, and save the manifest with a record of every file."""
    write_model_card(folder, manifest)
    return manifest.save(folder)
