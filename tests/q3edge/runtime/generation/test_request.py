"""Requests advance by logits alone: many of them, in any order and any chunks, give what each gives by itself."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.errors import UsageError
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.runtime import FakeDecoder, write_artifact

CONTEXT = 60


def passed(decoder: FakeDecoder, request: Request, at_most: int) -> list[int]:
    """Run a pass for the request alone, without a cache: the decoder reads the whole text again."""
    ids = request.next_ids(at_most)
    cache = decoder.new_cache(CONTEXT)
    logits = decoder.forward(np.array([request.ids[: request.computed] + ids]), cache, keep=request.keep)
    return request.advance(logits[0])


PROMPTS = st.lists(st.integers(0, 11), min_size=1, max_size=20)
ASKED = st.tuples(PROMPTS, st.sampled_from([0.0, 0.7, 2.0]), st.integers(1, 70), st.booleans())


@settings(max_examples=100, deadline=None)
@given(st.lists(ASKED, min_size=1, max_size=4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_requests_that_take_turns_go_as_each_alone(
    asked: list[tuple[list[int], float, int, bool]], at_most: int, turns: Random
) -> None:
    decoder = FakeDecoder(4, context=CONTEXT)
    requests, expected, statistics = [], [], []
    for i, (prompt, temperature, most, drafting) in enumerate(asked):
        chosen = GenerationSettings(most, temperature, seed=i, stop_token_ids=frozenset({11}))
        alone = Statistics()
        expected.append(list(generate(decoder, prompt, chosen, alone)))  # type: ignore[arg-type]
        statistics.append(alone)
        requests.append(Request(prompt, chosen, CONTEXT, draft=NGramDraft() if drafting else None))
    given_out: list[list[int]] = [[] for _ in requests]
    while running := [i for i, request in enumerate(requests) if not request.finished]:
        i = turns.choice(running)
        given_out[i] += passed(decoder, requests[i], at_most)
    assert given_out == expected == [request.new_ids for request in requests]
    for request, alone in zip(requests, statistics):
        found = request.statistics
        assert (found.finish_reason, found.new_tokens) == (alone.finish_reason, alone.new_tokens)
        assert found.decode_steps + found.accepted_tokens == alone.decode_steps


def test_a_prompt_comes_in_chunks_and_its_last_gives_the_first_token() -> None:
    decoder, request = FakeDecoder(1), Request(list(range(10)), GenerationSettings(3), CONTEXT)
    request.start(3)
    given_out, chunks = [], []
    while not request.finished:
        computed = request.computed
        given_out.append(passed(decoder, request, 3))
        chunks.append(request.computed - computed)
    assert [len(new) for new in given_out] == [0, 0, 1, 1, 1]
    assert chunks == [3, 3, 1, 1, 1]
    assert request.computed == len(request.ids) - 1
    assert (request.statistics.reused_tokens, request.statistics.decode_steps) == (3, 2)


def test_the_last_two_tokens_of_a_cached_prompt_are_computed_again() -> None:
    assert [Request([1] * count, GenerationSettings(), CONTEXT).reusable for count in (1, 2, 3, 9)] == [0, 0, 1, 7]


@pytest.mark.parametrize(("count", "problem"), [(0, "the prompt is empty"), (60, "60 tokens, but the model's context")])
def test_a_prompt_that_cannot_be_answered_is_refused_at_once(count: int, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Request([1] * count, GenerationSettings(), CONTEXT)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return Decoder(write_artifact(tmp_path_factory.mktemp("decoder") / "artifact"), threads=1)


def adjacent(rows: list[int]) -> list[list[int]]:
    """Runs of adjacent rows."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][-1] == row - 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def test_requests_join_and_leave_between_passes_over_one_cache(decoder: Decoder) -> None:
    """Each new token is the most likely after its own text, as far as kernels for several rows round alike."""
    random = np.random.default_rng(3)
    waiting = [
        Request(random.integers(2, 320, length).tolist(), GenerationSettings(most), 512)
        for length, most in ((9, 14), (30, 3), (1, 20), (17, 6), (5, 9), (22, 4))
    ]
    everyone, running = list(waiting), dict[int, Request]()
    cache = decoder.new_cache(64)
    cache.give_back(0)
    while waiting or running:
        while waiting and len(running) < 3:
            request, row = waiting.pop(0), cache.take()
            running[row] = request
            while not request.new_ids:  # the prompt, a row at a time
                ids = np.array([request.next_ids(8)])
                request.advance(decoder.forward(ids, cache, first_row=row)[0])
        for run in adjacent(sorted(row for row, request in running.items() if not request.finished)):
            ids = np.array([running[row].next_ids(1) for row in run])
            for row, logits in zip(run, decoder.forward(ids, cache, first_row=run[0])):
                running[row].advance(logits)
        for row in [row for row, request in running.items() if request.finished]:
            cache.give_back(row)
            del running[row]
    assert [len(request.new_ids) for request in everyone] == [14, 3, 20, 6, 9, 4]
    for request in everyone:
        prompt = request.statistics.prompt_tokens
        logits = decoder.forward(np.array([request.ids]), decoder.new_cache(64), keep=0)[0, prompt - 1 : -1]
        chosen = logits[np.arange(len(logits)), request.new_ids]
        assert (logits.max(axis=1) - chosen).max() < 1e-3 * np.abs(logits).max()
