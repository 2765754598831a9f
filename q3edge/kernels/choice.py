"""Whose kernels a session shall have: onnxruntime's, or ours by one of this CPU's instruction sets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from q3edge.errors import UsageError
from q3edge.kernels.library import PORTABLE, Library, fault, library, obstacle

VARIABLE = "Q3EDGE_KERNELS"  # what is chosen where nothing is said
ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Ours:
    """Library, and the instruction set that it shall use. required: it was asked for, and nothing else will do."""

    library: Library
    instruction_set: str
    required: bool


def choose(wanted: str | None = None) -> Ours | None:
    """Choose the kernels; None: onnxruntime's.

    wanted: "auto", "onnxruntime", "q3edge", or "q3edge:SET" with an instruction set; None: $Q3EDGE_KERNELS, else auto.
    UsageError: there is no such choice, or ours are asked for and cannot be had.
    """
    said = f"kernels {wanted!r}"
    if not wanted:
        wanted = os.environ.get(VARIABLE) or "auto"
        said = f"${VARIABLE} is {wanted!r}"
    name, _, forced = wanted.partition(":")
    if name not in ("auto", ONNXRUNTIME, "q3edge") or (":" in wanted and (name != "q3edge" or not forced)):
        raise UsageError(f"{said}: choose auto, onnxruntime or q3edge (q3edge:SET for an instruction set)")
    found = library() if name != ONNXRUNTIME else None
    if found is None or (name == "auto" and found.instruction_sets[0] == PORTABLE):
        if name == "q3edge":
            raise UsageError(f"{said}: {obstacle()}; choose auto or onnxruntime")
        return None
    if forced and forced not in found.instruction_sets:
        raise UsageError(f"{said}: this CPU and library have {', '.join(found.instruction_sets)}")
    return Ours(found, forced or found.instruction_sets[0], required=name == "q3edge")


def broken(wanted: str | None = None) -> str | None:
    """Say what is wrong with a library that `choose` would have looked at; None: nothing, or there is none."""
    name = wanted or os.environ.get(VARIABLE)
    return None if name == ONNXRUNTIME or library() is not None else fault()


def chosen_name(wanted: str | None = None) -> str:
    """Name of what `choose` chooses, as a model that can have it says it: "onnxruntime" or "q3edge (SET)"."""
    ours = choose(wanted)
    return ONNXRUNTIME if ours is None else f"q3edge ({ours.instruction_set})"


def kernel_facts(wanted: str | None = None) -> dict[str, str]:
    """What decides a result beside the model, of one that can have what `choose` chooses."""
    return facts_of_used(chosen_name(wanted))


def facts_of_used(kernels: str) -> dict[str, str]:
    """What decides a result beside the model, which says it has these `kernels`: they, and our library's digest."""
    found = library() if kernels != ONNXRUNTIME else None
    return {"kernels": kernels} if found is None else {"kernels": kernels, "kernel_library": found.digest()[:16]}
