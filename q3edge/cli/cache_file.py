"""`--cache-file`: the saved prefix that a command of answers begins with, and leaves its last text in."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from q3edge.errors import UsageError
from q3edge.terminal import say

if TYPE_CHECKING:
    from q3edge.runtime.model import Model


class CacheFile:
    """The file, if one is given; restored at once where it exists. InputError: it is not this model's, or damaged."""

    def __init__(self, model: Model, path: Path | None, *, read_only: bool) -> None:
        """Restore the file. UsageError: `read_only` without a path."""
        if read_only and path is None:
            raise UsageError("--cache-file-ro leaves the file of --cache-file as it is: give --cache-file too")
        self._model, self._path, self._read_only = model, path, read_only
        self._held: list[int] = []  # token ids of what the file holds
        if path is not None and (read_only or os.path.lexists(path)):
            began = time.perf_counter()
            tokens = model.load_prefix(path)
            say(f"[{tokens} tokens restored from {path} in {time.perf_counter() - began:.2f} s]")
            self._held = model.engine.slots.last_ended

    def save(self) -> None:
        """Write the text that was computed last, prompt and answer, if any was, unless the file is `read_only`."""
        if self._path is not None and not self._read_only and self._model.engine.slots.last_ended != self._held:
            say(f"[{self._model.save_prefix(self._path)} tokens saved to {self._path}]")
