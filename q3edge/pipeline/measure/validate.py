"""Validation of an artifact against the float model it came from, on text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import InputState
from q3edge.checkpoint import open_float_model
from q3edge.defaults import MAX_TOKENS
from q3edge.evaluation.distance.windows import (
    WINDOW_LENGTH,
    Window,
    built_in_texts,
    cut_windows,
    read_texts,
)
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.evaluation.validation.validate import validate_artifact
from q3edge.pipeline.measure.measurement import require_artifact
from q3edge.runtime.text.tokenizer import Tokenizer


def validate_against(
    folder: Path,
    reference: str,
    texts: Sequence[Path] = (),
    *,
    max_tokens: int = MAX_TOKENS,
    max_kl: float | None = None,
    threads: int | None = None,
) -> ValidationReport:
    """Compare the artifact in `folder` with float MODEL `reference` (folder or hub id) on `texts` (none: built in).

    InputError: a folder is broken, or the float model changed while it was read.
    """
    require_artifact(folder, reference, "validate")
    with open_float_model(reference) as checkpoint:
        state = InputState((checkpoint.folder,))
        windows = text_windows(folder, checkpoint.config, texts, max_tokens)
        report = validate_artifact(folder, checkpoint, windows, max_kl=max_kl, threads=threads)
        state.check_unchanged()
        return report


def text_windows(folder: Path, config: Qwen3Config, texts: Sequence[Path], max_tokens: int) -> tuple[Window, ...]:
    """Cut texts (none: built in) into windows of at most `max_tokens` tokens in all, with the tokenizer in `folder`."""
    tokenizer = Tokenizer.load(folder, config.vocab_size)
    chosen = read_texts(texts) if texts else built_in_texts()
    context = config.max_position_embeddings
    return cut_windows(
        chosen, tokenizer.encode_text, context=context, length=min(WINDOW_LENGTH, context), max_tokens=max_tokens
    )
