"""Validation of an artifact against the float model it came from, on text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import InputState
from q3edge.checkpoint import open_float_model
from q3edge.defaults import MAX_TOKENS
from q3edge.errors import UsageError
from q3edge.evaluation.distance.windows import (
    WINDOW_LENGTH,
    Window,
    built_in_texts,
    cut_windows,
    read_texts,
)
from q3edge.evaluation.validation.embeddings import EmbeddingReport, validate_embeddings
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.evaluation.validation.validate import validate_artifact
from q3edge.pipeline.measure.measurement import require_artifact
from q3edge.runtime.text.tokenizer import Tokenizer

PASSAGE_LENGTH = 64  # tokens of a text to embed: the built-in texts give some 128 of them


def validate_against(
    folder: Path,
    reference: str,
    texts: Sequence[Path] = (),
    *,
    max_tokens: int = MAX_TOKENS,
    max_kl: float | None = None,
    threads: int | None = None,
    kernels: str | None = None,
) -> ValidationReport | EmbeddingReport:
    """Compare the artifact in `folder` with float MODEL `reference` (folder or hub id) on `texts` (none: built in).

    kernels: as for `Decoder`. InputError: a folder is broken, or the float model changed while it was read. UsageError:
    max_kl for an embedding model.
    """
    manifest = require_artifact(folder, reference, "validate", "onnx", "embedding")
    with open_float_model(reference) as checkpoint:
        state = InputState(checkpoint.folders)
        if manifest.kind == "embedding":
            refuse_max_kl(max_kl)
            passages = text_passages(folder, checkpoint.config, texts, max_tokens)
            found = validate_embeddings(folder, checkpoint, passages, threads=threads, kernels=kernels)
            state.check_unchanged()
            return found
        windows = text_windows(folder, checkpoint.config, texts, max_tokens)
        report = validate_artifact(folder, checkpoint, windows, max_kl=max_kl, threads=threads, kernels=kernels)
        state.check_unchanged()
        return report


def refuse_max_kl(max_kl: float | None) -> None:
    """Raise UsageError where a KL is limited of an embedding model, which has none."""
    if max_kl is not None:
        raise UsageError("--max-kl is for predictions of tokens, and an embedding model makes none; leave it out")


def text_passages(folder: Path, config: Qwen3Config, texts: Sequence[Path], max_tokens: int) -> list[list[int]]:
    """Cut texts into passages to embed, token ids with the tokenizer's end token; arguments as for `text_windows`."""
    end = Tokenizer.load(folder, config.vocab_size).encode_whole("")
    length = min(PASSAGE_LENGTH, config.max_position_embeddings - len(end))
    windows = text_windows(folder, config, texts, max_tokens, length)
    return [[*window.inputs.tolist(), *end] for window in windows]


def text_windows(
    folder: Path, config: Qwen3Config, texts: Sequence[Path], max_tokens: int, length: int = WINDOW_LENGTH
) -> tuple[Window, ...]:
    """Cut texts (none: built in) into windows of at most `max_tokens` tokens in all, with the tokenizer in `folder`."""
    tokenizer = Tokenizer.load(folder, config.vocab_size)
    chosen = read_texts(texts) if texts else built_in_texts()
    context = config.max_position_embeddings
    return cut_windows(
        chosen, tokenizer.encode_text, context=context, length=min(length, context), max_tokens=max_tokens
    )
