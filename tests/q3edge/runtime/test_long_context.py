"""Prompts of many chunks: as exact at the end as at the beginning, with either cache, and to where YaRN stretches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3ForCausalLM

from q3edge.calibration.layers.kv_scales import kv_scales
from q3edge.errors import UsageError
from q3edge.pipeline.export import export_artifact
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.engine.slots import PREFILL_CHUNK, Slots
from q3edge.runtime.model import Model
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import InMemoryWeights, write_checkpoint
from tests.helpers.runtime import write_artifact, write_tokenizer

RNG = np.random.default_rng(0)
LONG = 7 * PREFILL_CHUNK + 100
ORIGINAL, FACTOR = 128, 4


@pytest.mark.parametrize(("cache", "tolerance"), [("float32", 1e-5), ("int8", 2e-2)])
def test_a_long_prompt_is_as_exact_at_its_end_as_behind_its_first_chunk(
    tmp_path: Path, cache: str, tolerance: float
) -> None:
    """Errors of the logits against the float reference; keys and values of earlier chunks are what int8 rounds.

    The scales are those of short texts, whose keys have hardly turned.
    """
    weights = InMemoryWeights.random(max_position_embeddings=2048)
    ids = RNG.integers(0, 320, LONG)
    scales = kv_scales(weights, ids[:1824].reshape(19, 96)) if cache == "int8" else None
    decoder = Decoder(write_artifact(tmp_path / "artifact", scales, max_position_embeddings=2048), threads=1)
    slots = Slots(decoder)
    slot = slots.take(ids.tolist(), 0)
    assert slot is not None
    chunks = [ids[start : start + PREFILL_CHUNK].tolist() for start in range(0, LONG, PREFILL_CHUNK)]
    found = np.concatenate([slots.extend(slot, chunk, keep=len(chunk)).copy() for chunk in chunks])
    expected = LogitsHead(weights).logits(hidden_states(weights, ids[None])[0]).numpy()
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    of_chunks = [errors[start : start + PREFILL_CHUNK].mean() for start in range(0, LONG, PREFILL_CHUNK)]
    assert max(of_chunks) < tolerance
    assert max(of_chunks[2:]) < 1.5 * of_chunks[1]


def token_probabilities(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    """Log probabilities by transformers of all tokens but the first, each behind those before it."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    found: NDArray[np.float32] = logits.log_softmax(1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    return found


def test_l3_with_yarn_requests_reach_the_stretched_length(tmp_path: Path) -> None:
    """max_position_embeddings says less, as in Qwen's published files: the context is original length x factor."""
    yarn = {"rope_type": "yarn", "factor": float(FACTOR), "original_max_position_embeddings": ORIGINAL}
    checkpoint = write_checkpoint(tmp_path / "model", rope_scaling=yarn, max_position_embeddings=160)
    write_tokenizer(checkpoint)
    export_artifact(str(checkpoint), tmp_path / "out", as_float=True)
    reach = ORIGINAL * FACTOR
    ids: list[int] = RNG.integers(2, 290, reach).tolist()
    with Model.open(tmp_path / "out", threads=1) as model:
        found = [entry.logprob for entry in model.score(ids).logprobs[1:] if entry is not None]
        np.testing.assert_allclose(found, token_probabilities(checkpoint, ids), atol=1e-4)
        assert model.generate(ids[:-3], max_new_tokens=9, stop_token_ids=[]).stats.new_tokens == 3
        assert model.save_prefix(tmp_path / "prefix", ids[:-1]) == model.load_prefix(tmp_path / "prefix") == reach - 1
        with pytest.raises(UsageError, match=f"prompt has {reach} tokens, but the model's context is {reach} tokens"):
            model.generate(ids)
