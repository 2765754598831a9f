"""Penalties against transformers' own processors, and a whole greedy text against its `generate` (row L7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, Qwen3ForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from q3edge.runtime.engine.generate import generate
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.penalties import Penalties
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_artifact

VOCABULARY = 12
TOKENS = st.integers(0, VOCABULARY - 1)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    prompt=st.lists(TOKENS, min_size=1, max_size=12),
    answer=st.lists(TOKENS, max_size=12),
    penalty=st.sampled_from([1.0, 1.3, 0.7]),
    size=st.integers(0, 4),
    shortest=st.integers(0, 6),
    length=st.integers(0, 15),
    suppressed=st.sets(TOKENS, max_size=3),
    at_first=st.sets(TOKENS, max_size=3),
    biases=st.dictionaries(TOKENS, st.sampled_from([-100, -1.5, 0, 0.25, 100]), max_size=3),
)
def test_l7_penalties_equal_transformers(
    seed: int,
    prompt: list[int],
    answer: list[int],
    penalty: float,
    size: int,
    shortest: int,
    length: int,
    suppressed: set[int],
    at_first: set[int],
    biases: dict[int, float],
) -> None:
    chosen = GenerationSettings(
        repetition_penalty=penalty, no_repeat_ngram_size=size, min_new_tokens=shortest, min_length=length,
        suppress_tokens=frozenset(suppressed), begin_suppress_tokens=frozenset(at_first), stop_token_ids=frozenset({3}),
        logit_bias=tuple(biases.items()),
    )  # fmt: skip
    processors = LogitsProcessorList()
    if biases:
        processors.append(SequenceBiasLogitsProcessor({(token,): float(bias) for token, bias in biases.items()}))
    if penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    if size:
        processors.append(NoRepeatNGramLogitsProcessor(size))
    if length:
        processors.append(MinLengthLogitsProcessor(length, torch.tensor([3])))
    if shortest:
        processors.append(MinNewTokensLengthLogitsProcessor(len(prompt), shortest, torch.tensor([3])))
    if suppressed:
        processors.append(SuppressTokensLogitsProcessor(list(suppressed)))
    if at_first:
        processors.append(SuppressTokensAtBeginLogitsProcessor(list(at_first), len(prompt)))
    random = np.random.default_rng(seed)
    penalties = Penalties(chosen, prompt)
    for step in range(len(answer) + 1):
        logits = random.standard_normal(VOCABULARY).astype(np.float32)
        ids = torch.tensor([[*prompt, *answer[:step]]])
        expected = processors(ids, torch.from_numpy(logits)[None].clone())[0].numpy()
        np.testing.assert_array_equal(penalties(logits), expected)
        if step < len(answer):
            penalties.append(answer[step])


def test_l24_presence_and_frequency_count_the_answer_alone() -> None:
    penalties = Penalties(GenerationSettings(presence_penalty=0.5, frequency_penalty=0.25), [0, 0, 1])
    zeros = np.zeros(4, np.float32)
    assert penalties(zeros).tolist() == [0, 0, 0, 0]
    for token in (2, 1, 2):
        penalties.append(token)
    assert penalties(zeros).tolist() == [0, -0.75, -1.0, 0]


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    prompt=st.lists(TOKENS, min_size=1, max_size=12),
    answer=st.lists(TOKENS, max_size=30),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.sampled_from([1.0, 1.3]),
    biases=st.dictionaries(TOKENS, st.floats(-100, 100), max_size=3),
)
def test_l24_presence_and_frequency_are_what_openai_and_vllm_compute(
    seed: int,
    prompt: list[int],
    answer: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    biases: dict[int, float],
) -> None:
    """vLLM: bias, then the repetition penalty of prompt and answer, then those of the answer alone."""
    penalties = Penalties(
        GenerationSettings(
            presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition,
            logit_bias=tuple(biases.items()),
        ),
        prompt,
    )  # fmt: skip
    logits = np.random.default_rng(seed).standard_normal(VOCABULARY).astype(np.float32)
    penalties(logits)
    for token in answer:
        penalties.append(token)
    for token, found in enumerate(penalties(logits).tolist()):
        score = float(logits[token]) + biases.get(token, 0.0)
        if token in (*prompt, *answer):
            score = score / repetition if score > 0 else score * repetition
        count = answer.count(token)
        score -= frequency * count + presence * (count > 0)
        assert found == pytest.approx(score, rel=1e-5, abs=1e-4)


def test_without_penalties_the_logits_are_not_copied() -> None:
    logits = np.zeros(4, np.float32)
    assert Penalties(GenerationSettings(), [1])(logits) is logits


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Qwen3ForCausalLM:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "artifact")


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.4, "max_new_tokens": 40},
        {"no_repeat_ngram_size": 2, "max_new_tokens": 40},
        {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "suppress_tokens": [5, 9, 301], "max_length": 50},
        {"begin_suppress_tokens": list(range(3, 200)), "temperature": None, "top_k": None, "max_new_tokens": 20},
        {"min_new_tokens": 10, "eos_token_id": list(range(2, 250)), "max_new_tokens": 40},
        {"min_length": 24, "eos_token_id": list(range(2, 250)), "max_new_tokens": 40},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_l7_greedy_text_equals_transformers_generate(
    folder: Path, reference: Qwen3ForCausalLM, tmp_path: Path, fields: dict[str, Any]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 0} | fields))
    decoder = Decoder(folder, threads=1)
    prompt = np.random.default_rng(3).integers(2, 320, 12).tolist()
    own = checkpoint_settings(tmp_path, decoder.config)
    assert own.notices == ()
    with torch.no_grad():
        expected = reference.generate(
            torch.tensor([prompt]), generation_config=GenerationConfig.from_pretrained(tmp_path)
        )[0, 12:].tolist()
    stops = own.settings.stop_token_ids or ()
    while expected and expected[-1] in stops:
        expected.pop()
    assert list(generate(decoder, prompt, own.settings)) == expected
    assert list(generate(decoder, prompt, own.settings, draft=NGramDraft())) == expected
