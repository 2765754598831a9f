"""Engines on a fake decoder, and what a request gets alone."""

from __future__ import annotations

from typing import Any

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.engine.requests import Event
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from tests.helpers.runtime import FakeDecoder

CONTEXT = 300
GREEDY = GenerationSettings(20)


def engine_of(decoder: Any, rows: int = 3, *, kept: int = 1, budget: int | None = None, **settings: Any) -> Engine:
    """Engine on a few rows of a decoder."""
    return Engine(Slots(decoder, rows, kept=kept, budget=budget), **settings)


def request(prompt: list[int], chosen: GenerationSettings = GREEDY, **named: Any) -> Request:
    """Request within the tests' context."""
    return Request(prompt, chosen, CONTEXT, **named)


def alone(prompt: list[int], chosen: GenerationSettings = GREEDY, context: int = CONTEXT) -> list[int]:
    """Tokens that a prompt gets alone."""
    decoder: Any = FakeDecoder(2, context=context)
    return list(generate(decoder, prompt, chosen))


def drained(engine: Engine) -> list[Event]:
    """Events until nothing is left to do."""
    events = []
    while engine.busy:
        events += engine.step()
    return events


def tokens_of(events: list[Event], number: int) -> list[int]:
    """Tokens of one request among events."""
    return [token for event in events if event.id == number for token in event.tokens]


def ends(events: list[Event]) -> list[int]:
    """Requests that finished, in their order."""
    return [event.id for event in events if event.finished]
