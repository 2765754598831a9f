"""Log probabilities against torch's log softmax of the logits that the model gives, alone, drafted and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.errors import InputError, UsageError
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.generation.logprobs import TokenLogprobs, token_logprobs
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.scoring import Scoring
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.thinking import ThinkingTokens
from tests.helpers.engine import CONTEXT, alone, engine_of
from tests.helpers.runtime import FakeDecoder

PROMPTS = st.lists(st.integers(0, 11), min_size=1, max_size=9)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 2, 30, 5000, 20_000]),
    scale=st.floats(0.01, 30),
    top=st.integers(0, 20),
    levels=st.booleans(),
)
def test_they_are_torchs_and_the_most_likely_come_first(
    seed: int, size: int, scale: float, top: int, levels: bool
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(size) * scale).astype(np.float32)
    if levels:
        logits = np.round(logits)  # ties
    token = int(random.integers(size))
    found = token_logprobs(logits, token, top)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 0).numpy()
    order = np.argsort(-logits, kind="stable")[:top]
    assert found.token_id == token
    assert found.logprob == pytest.approx(expected[token], abs=1e-5)
    assert [one for one, _ in found.top] == order.tolist()
    np.testing.assert_allclose([value for _, value in found.top], expected[order], atol=1e-5)


def test_nan_logits_are_an_error() -> None:
    with pytest.raises(InputError, match="logits are NaN"):
        token_logprobs(np.array([1, np.nan], np.float32), 0, 0)


def naive(decoder: FakeDecoder, prompt: list[int], new: list[int], top: int) -> list[TokenLogprobs]:
    """From the logits of the whole text, token by token."""
    text = [0, *prompt, *new]
    return [
        token_logprobs(decoder.logits[text[at - 1], text[at]], text[at + 1], top)
        for at in range(len(prompt), len(text) - 1)
    ]


CHOSEN = st.builds(
    GenerationSettings,
    max_new_tokens=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    seed=st.integers(0, 9),
    stop_token_ids=st.sampled_from([frozenset[int](), frozenset({11})]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.dictionaries(st.integers(0, 11), st.floats(-5, 5), max_size=3),
    logprobs=st.sampled_from([None, 0, 3]),
)


@settings(max_examples=80)
@given(st.lists(st.tuples(PROMPTS, CHOSEN, st.booleans()), min_size=1, max_size=4))
def test_every_token_of_a_batch_has_its_own_of_the_models_logits(
    asked: list[tuple[list[int], GenerationSettings, bool]],
) -> None:
    decoder: Any = FakeDecoder(2)
    engine = engine_of(decoder)
    requests = [
        Request(prompt, chosen, CONTEXT, draft=NGramDraft() if drafting else None) for prompt, chosen, drafting in asked
    ]
    for request in requests:
        engine.add(request)
    while engine.busy:
        engine.step()
        for request in requests:
            assert len(request.logprobs) == (0 if request._top is None else len(request.new_ids))
    for request, (prompt, chosen, _) in zip(requests, asked):
        if chosen.logprobs is not None:
            assert request.logprobs == naive(decoder, prompt, request.new_ids, chosen.logprobs)


def test_forced_tokens_have_none() -> None:
    decoder: Any = FakeDecoder(2)
    tokens = ThinkingTokens(9, 10, (4, 4, 10), (5, 10), (10,), frozenset())
    chosen = GenerationSettings(9, thinking_budget=2, logprobs=1)
    request = Request([2, 9], chosen, CONTEXT, thinking=tokens)
    list(engine_of(decoder).generate(request))
    new = request.new_ids
    assert new[2:5] == [4, 4, 10]
    expected = naive(decoder, [2, 9], new, 1)
    assert request.logprobs == [*expected[:2], None, None, None, *expected[5:]]


def test_tokens_are_the_same_with_and_without() -> None:
    decoder: Any = FakeDecoder(2)
    plain = GenerationSettings(40, 1.5, seed=3)
    told = plain.override(logprobs=5)
    assert list(generate(decoder, [1, 2], plain)) == list(generate(decoder, [1, 2], told))


def test_a_completion_and_its_stream_have_them(model: Model) -> None:
    stream = model.stream("the cat", max_new_tokens=9, temperature=0, logprobs=2)
    assert list(stream.logprobs) == []
    done = stream.finish()
    assert len(done.logprobs) == len(done.token_ids)
    assert tuple(stream.logprobs) == done.logprobs
    for token, entry in zip(done.token_ids, done.logprobs):
        assert entry is not None
        assert entry.token_id == token
        assert entry.top[0] == (token, entry.logprob)  # greedy
        assert len(entry.top) == 2
    assert done.to_json()["logprobs"][0]["token_id"] == done.token_ids[0]
    assert model.chat("the cat", max_new_tokens=2).logprobs == ()


@settings(max_examples=60)
@given(
    ids=st.lists(st.integers(0, 11), min_size=2, max_size=290),
    first=st.integers(1, 290),
    top=st.integers(0, 3),
    others=st.lists(PROMPTS, max_size=2),
)
def test_a_text_is_scored_beside_requests_in_chunks(
    ids: list[int], first: int, top: int, others: list[list[int]]
) -> None:
    decoder: Any = FakeDecoder(2)
    engine = engine_of(decoder)
    running = [Request(prompt, GenerationSettings(9), CONTEXT) for prompt in others]
    for request in running:
        engine.add(request)
    engine.step()
    first = min(first, len(ids) - 1)
    scoring = Scoring(ids, CONTEXT, first=first, top=top)
    list(engine.generate(scoring))
    assert scoring.logprobs == naive(decoder, ids[:first], ids[first:], top)
    while engine.busy:
        engine.step()
    assert [request.new_ids for request in running] == [alone(prompt, GenerationSettings(9)) for prompt in others]
    assert max(decoder.passes) <= 256


def test_a_text_that_fills_the_context_is_scored_and_a_longer_one_refused() -> None:
    decoder: Any = FakeDecoder(2)
    ids = [1, 2, 3] * 100 + [4]
    scoring = Scoring(ids, CONTEXT)
    list(engine_of(decoder).generate(scoring))
    assert len(ids) == CONTEXT + 1 == len(scoring.logprobs) + 1
    with pytest.raises(UsageError, match="the text has 302 tokens, but the model's context is 300 tokens"):
        Scoring([*ids, 1], CONTEXT)


def test_the_score_of_a_text_is_what_the_decoder_says(model: Model) -> None:
    score = model.score("the cat sat on the mat", top=2)
    ids = score.token_ids
    assert list(ids) == model.tokenizer.encode_markup("the cat sat on the mat")
    logits = model.decoder.forward(np.array([ids]), model.decoder.new_cache(64), keep=0)[0]
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 1)
    assert score.logprobs[0] is None
    for place, entry in enumerate(score.logprobs[1:], 1):
        assert entry is not None
        assert entry.logprob == pytest.approx(float(expected[place - 1, ids[place]]), abs=1e-4)
        assert entry.top[0][1] == pytest.approx(float(expected[place - 1].max()), abs=1e-4)
    assert score.total == sum(entry.logprob for entry in score.logprobs if entry)
    again = model.generate(ids, max_new_tokens=1)
    assert again.stats.reused_tokens == len(ids) - 2
    assert model.score(ids[:1]).logprobs == (None,)
    with pytest.raises(UsageError, match="top = 21: expected 0-20"):
        model.score("the", top=21)
    with pytest.raises(UsageError, match="the text is empty"):
        model.score("")
