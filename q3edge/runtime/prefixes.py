"""Saving and restoring of prefixes by an engine, between the passes of its requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from q3edge.errors import UsageError
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.saved_prefix import opened_prefix, write_prefix


def save_prefix(engine: Engine, decoder: Decoder, path: Path, ids: Sequence[int] | None, context: int) -> list[int]:
    """Write the keys and values of `ids` to a file; those that no slot holds are computed first, as a prompt's are.

    None: those of the text that has ended last. Returns the ids. UsageError: there is no such text, it leaves no room
    in `context` tokens, or other requests took its place meanwhile. ResourceError: the file cannot be written.
    """

    def write(slots: Slots) -> list[int]:
        wanted = slots.last_ended if ids is None else list(ids)
        if not wanted and ids is None:
            raise UsageError("no text is cached: give the prompt whose keys and values are to be saved")
        contents = slots.contents(wanted) if wanted else None
        if contents is None:
            return []
        write_prefix(path, decoder, wanted, contents)
        return wanted

    written = engine.between_passes(write)
    if not written and ids is not None:
        for _ in engine.generate(Request(ids, GenerationSettings(1), context)):
            pass
        written = engine.between_passes(write)
    if not written:
        raise UsageError("other texts took the place of the prefix before it was saved; save it while none is running")
    return written


def load_prefix(engine: Engine, decoder: Decoder, path: Path) -> list[int]:
    """Restore a file that `save_prefix` wrote: a prompt that begins with its ids is computed from there on.

    Returns the ids. InputError: the file is damaged, or of another model. UsageError: it does not fit the memory for
    keys and values, or the engine takes nothing over from other texts (`deterministic`).
    """
    if engine.deterministic:
        raise UsageError("deterministic takes nothing over from other texts: leave it out to use saved prefixes")
    with opened_prefix(path, decoder) as prefix:
        engine.between_passes(lambda slots: slots.restore(prefix.ids, prefix.write_to))
        return prefix.ids
