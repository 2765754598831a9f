"""Batches: tokens are those of each request alone, but for near ties.

On the embedded model, in each type of cache, and on a mixture of experts.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from random import Random

import numpy as np
import pytest

import q3edge
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import MOE, write_checkpoint

DEMO_MODEL = files("q3edge.data") / "demo_model"
# Share of the largest logit by which the token of one run may lie below that of another. An activation that kernels for
# one row and for several round to different codes changes logits by more than the order of sums does; so does a key
# that is read before it is rounded in one run, and after it in the other.
TIE = {"float": 1e-4, "int4-fast": 0.05, "int8 kv8": 0.05, "experts": 1e-4}


@pytest.fixture(scope="module", params=list(TIE))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Decoder]:
    name, folder = request.param, tmp_path_factory.mktemp("batches")
    if name == "experts":
        model = write_checkpoint(folder / "model", **MOE, vocab_size=1200)
        q3edge.export(model, folder / "out", as_float=True)
        return name, Decoder(folder / "out", threads=1)
    if name == "float":
        q3edge.export(str(DEMO_MODEL), folder / "model", as_float=True)
    else:
        recipe, _, cache = name.partition(" ")
        q3edge.quantize(
            str(DEMO_MODEL), folder / "quantized", recipe, method="rtn", kv_cache="int8" if cache else "float32"
        )
        q3edge.export(folder / "quantized", folder / "model")
    return name, Decoder(Path(folder / "model"), threads=1)


def asked(decoder: Decoder, count: int, seed: int) -> list[Request]:
    """Requests with prompts of 1 to 90 tokens, half of which begin alike."""
    random, found = Random(seed), []
    common = [random.randrange(1200) for _ in range(40)]
    for i in range(count):
        own = [random.randrange(1200) for _ in range(random.randrange(1, 50))]
        prompt = [*(common if i % 2 else ()), *own]
        context = decoder.config.max_position_embeddings
        found.append(Request(prompt, GenerationSettings(random.randrange(1, 40)), context))
    return found


def answer_beside_others(engine: Engine, requests: list[Request], seed: int) -> None:
    """Join at random moments; every sixth request is cancelled on its way, and asked again."""
    random, waiting = Random(seed), list(requests)
    while waiting or engine.busy:
        if waiting and random.random() < 0.3:
            request = waiting.pop(0)
            if random.random() < 1 / 6:
                again = Request(request.ids[:], GenerationSettings(30), request.longest + 30)
                number = engine.add(again)
                for _ in range(random.randrange(9)):
                    assert not any(event.error for event in engine.step())
                engine.cancel(number)
            engine.add(request)
        assert not any(event.error for event in engine.step())
    assert engine.slots.taken == 0


def alone(decoder: Decoder, request: Request) -> list[int]:
    context = decoder.config.max_position_embeddings
    again = Request(request.ids[: request.statistics.prompt_tokens], GenerationSettings(len(request.new_ids)), context)
    engine = Engine(Slots(decoder))
    engine.add(again)
    while engine.busy:
        engine.step()
    return again.new_ids


def test_tokens_in_a_batch_are_those_of_each_request_alone_but_for_ties(model: tuple[str, Decoder]) -> None:
    name, decoder = model
    requests = asked(decoder, 14, seed=5)
    answer_beside_others(Engine(Slots(decoder, 4, kept=2)), requests, seed=6)
    for request in requests:
        expected = alone(decoder, request)
        parted = next((i for i, (a, b) in enumerate(zip(request.new_ids, expected)) if a != b), None)
        if parted is None:
            continue
        ids = request.ids[: request.statistics.prompt_tokens + parted]
        logits = decoder.forward(np.array([ids]), decoder.new_cache(len(ids)))[0, 0]
        between = abs(float(logits[request.new_ids[parted]] - logits[expected[parted]]))
        assert between < TIE[name] * np.abs(logits).max()


def test_deterministic_tokens_are_exactly_those_of_each_request_alone(model: tuple[str, Decoder]) -> None:
    _, decoder = model
    requests = asked(decoder, 8, seed=7)
    answer_beside_others(Engine(Slots(decoder, 4, kept=2), deterministic=True), requests, seed=8)
    assert [request.new_ids for request in requests] == [alone(decoder, request) for request in requests]
    assert all(request.statistics.reused_tokens == 0 for request in requests)


def test_a_beginning_copied_from_another_row_is_what_was_computed_there(model: tuple[str, Decoder]) -> None:
    _, decoder = model
    slots, random = Slots(decoder, 3), np.random.default_rng(1)
    ids = random.integers(0, 1200, 70).tolist()
    first, second = slots.take(ids, 0), slots.take([*ids[:60], 5, 6, 7], 0)
    assert first is not None and second is not None  # noqa: PT018
    slots.read(first, ids)
    third = slots.take([*ids[:60], 5, 6, 7], 61)
    assert third is not None
    assert third.ids == ids[:60]
    for array in slots._cache.arrays.values():
        np.testing.assert_array_equal(array[third.row][:, :60], array[first.row][:, :60])
    copied = slots.read(third, [5, 6, 7]).copy()
    slots.truncate(first, 60)
    np.testing.assert_array_equal(copied, slots.read(first, [5, 6, 7]))


def test_a_beginning_that_was_stored_is_what_was_computed(model: tuple[str, Decoder]) -> None:
    _, decoder = model
    slots, random = Slots(decoder, stored=1000), np.random.default_rng(1)
    ids, other = random.integers(0, 1200, 70).tolist(), random.integers(0, 1200, 50).tolist()
    found = []
    for text in (ids, other, [*ids[:60], 5, 6, 7]):  # the second takes the row of the first
        slot = slots.take(text, 60)
        assert slot is not None
        found.append((len(slot.ids), slots.read(slot, text[len(slot.ids) :]).copy()))
        slots.give_back(slot)
    assert [known for known, _ in found] == [0, 0, 60]
    apart = Slots(decoder)
    slot = apart.take(ids, 0)
    assert slot is not None
    apart.read(slot, ids)
    apart.truncate(slot, 60)
    np.testing.assert_array_equal(found[2][1], apart.read(slot, [5, 6, 7]))
