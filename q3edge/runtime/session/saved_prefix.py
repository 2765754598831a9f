"""Saved prefixes: the beginning of a text, its token ids with their keys and values, in a file.

The file (`storage.array_file`) belongs to the graph, the weights and the kernels that computed it. Nothing reaches a
cache before all of it was checked: what it is, whose, the types and shapes of what it lists, and the sha256 of every
array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import CacheBuffer
from q3edge.errors import InputError, unreadable
from q3edge.runtime.session.decoder import Decoder
from q3edge.storage.array_file import ArrayFile, DamagedFileError, open_arrays, write_arrays

_KIND, _VERSION = "saved prefix", 1
_TOKEN_IDS = "token_ids"  # int32 [tokens]; every other array is named as the graph's input
_WORKERS = 4  # arrays hashed at the same time: reading from the disk waits


class SavedPrefix:
    """A checked file, open for reading. ids: its token ids, at least one."""

    def __init__(self, file: ArrayFile) -> None:
        self._file = file
        self.ids: list[int] = file.read(_TOKEN_IDS).tolist()

    def write_to(self, contents: Mapping[CacheBuffer, NDArray[np.generic]]) -> None:
        """Put keys and values into views of a row of a cache, one for each buffer, with an axis of all tokens.

        DamagedFileError, which `opened_prefix` makes an InputError: the file has changed since it was checked.
        """
        for buffer, array in contents.items():
            self._file.read_into(buffer.past, array)
        self._file.check_unchanged()


def write_prefix(
    path: Path, decoder: Decoder, ids: Sequence[int], contents: Mapping[CacheBuffer, NDArray[np.generic]]
) -> None:
    """Replace the file atomically by the text `ids` and its `contents` in a cache. ResourceError: a full disk."""
    arrays = {_TOKEN_IDS: np.array(ids, np.int32)} | {buffer.past: array for buffer, array in contents.items()}
    note = {"kind": _KIND, "version": _VERSION, "model": decoder.digest}
    write_arrays(path, arrays, note)


@contextmanager
def opened_prefix(path: Path, decoder: Decoder) -> Iterator[SavedPrefix]:
    """Open and check a file that `write_prefix` made for the same model.

    InputError: it is missing or no such file, of another version or model, damaged, or changes while it is read.
    """
    try:
        with open_arrays(path) as file:
            _check_entries(path, file, decoder)
            file.verify(_WORKERS)
            prefix = SavedPrefix(file)
            _check_ids(path, prefix.ids, decoder)
            yield prefix
    except DamagedFileError as error:
        raise InputError(f"{error}; save the prefix again, or give another file") from None
    except OSError as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise unreadable(f"{path}: {reason}; expected a saved prefix", error) from None


def _check_entries(path: Path, file: ArrayFile, decoder: Decoder) -> None:
    """Check everything that the header says against the model."""
    note = file.note if isinstance(file.note, dict) else {}
    if note.get("kind") != _KIND:
        raise InputError(f"{path}: is no saved prefix; give another file")
    if note.get("version") != _VERSION:
        raise InputError(
            f"{path}: a saved prefix of another version than {_VERSION}, which this q3edge reads; save it again"
        )
    if note.get("model") != decoder.digest:
        raise InputError(
            f"{path}: was saved with another model or other kernels; save it again with these, or give another file"
        )
    listed = file.entries.get(_TOKEN_IDS)
    tokens = listed.shape[0] if listed is not None and listed.shape else 0
    context = decoder.config.max_position_embeddings
    if not 0 < tokens <= context:
        raise InputError(f"{path}: a saved prefix of {tokens} tokens; expected 1 to {context}, the model's context")
    expected: dict[str, tuple[str, tuple[int, ...]]] = {_TOKEN_IDS: (np.dtype(np.int32).str, (tokens,))}
    for buffer in decoder.cache_spec.buffers():
        expected[buffer.past] = np.dtype(buffer.dtype).str, buffer.allocated_shape(1, tokens)[1:]
    for name in expected.keys() | file.entries.keys():
        found = file.entries.get(name)
        if found is None or name not in expected or (found.dtype, found.shape) != expected[name]:
            raise InputError(f"{path}: array {name} is not as this model's cache has it; save the prefix again")


def _check_ids(path: Path, ids: Sequence[int], decoder: Decoder) -> None:
    vocabulary = decoder.config.vocab_size
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise InputError(f"{path}: token ids {min(ids)} to {max(ids)}; the model has 0 to {vocabulary - 1}")
