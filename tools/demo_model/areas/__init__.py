"""The areas of the curriculum: each module draws items of one area."""

from __future__ import annotations

from ..item import Sampler
from . import arithmetic, chat, code, knowledge, multilingual, safety

AREAS: dict[str, Sampler] = {
    "knowledge": knowledge.sample,
    "math": arithmetic.sample,
    "code": code.sample,
    "multilingual": multilingual.sample,
    "safety": safety.sample,
}
"""The five areas that are scored."""

SAMPLERS: dict[str, Sampler] = {**AREAS, "chat": chat.sample}
"""Everything that is trained on: the five areas and small talk."""
