"""Check, before any work, of the files that only a runtime reads: what it would refuse is refused with its own name."""

from __future__ import annotations

from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.checkpoint import ModelFolder
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.text.tokenizer import Tokenizer


def check_runnable(model: ModelFolder) -> None:
    """Raise InputError for a tokenizer, if there is one, or a generation_config.json that the runtime refuses."""
    if (model.side_folder / TOKENIZER_FILE).exists():
        Tokenizer.load(model.side_folder, model.config.vocab_size)
    checkpoint_settings(model.side_folder, model.config)
