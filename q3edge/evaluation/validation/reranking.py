"""Check of a reranker: its scores, the probability of "yes" against "no", beside those of the float model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from q3edge.checkpoint.source import WeightSource
from q3edge.evaluation.distance.streams import CausalDecoder
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.results import CheckResult
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.padding import right_padded
from q3edge.runtime.reranker import answer_ids, encode_pairs, probability_of_yes
from q3edge.runtime.text.tokenizer import Tokenizer

MAX_SCORE_DIFFERENCE, MAX_SCORE_DIFFERENCE_ROUNDED = 1e-4, 0.1  # on average
_TEXTS, _DOCUMENT, _QUERY = 6, 64, 12  # texts, tokens of a document, tokens of a query


def check_scores(
    decoder: CausalDecoder, tokenizer: Tokenizer, reference: WeightSource, windows: Sequence[Window], *, rounded: bool
) -> CheckResult:
    """Check that scores are the float model's, of documents from `windows` and queries: their beginnings.

    Each document is asked for by its own beginning and by that of another. rounded: weights are quantized.
    """
    answers = list(answer_ids(tokenizer))
    if len(answers) < 2:
        return CheckResult("reranker_scores", "skipped", None, None, "the tokenizer has no token for yes or for no")
    prompts = encode_pairs(tokenizer, _pairs(tokenizer, windows))
    lengths = [len(ids) for ids in prompts]
    states = hidden_states(reference, right_padded(prompts), lengths)
    last = states[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
    expected = [probability_of_yes(row) for row in LogitsHead(reference).logits(last)[:, answers].numpy()]
    found = [
        probability_of_yes(decoder.forward(np.array([ids]), decoder.new_cache(len(ids)), keep=1)[0, -1][answers])
        for ids in prompts
    ]
    value = float(np.abs(np.subtract(found, expected)).mean())
    limit = MAX_SCORE_DIFFERENCE_ROUNDED if rounded else MAX_SCORE_DIFFERENCE
    reason = (
        f"scores of {len(prompts)} documents differ from the float model's by {value:.2g}, at most {limit:g} expected"
    )
    return CheckResult.at_most("reranker_scores", value, limit, reason)


def _pairs(tokenizer: Tokenizer, windows: Sequence[Window]) -> list[tuple[str, str]]:
    texts = [window.inputs[:_DOCUMENT].tolist() for window in windows[:_TEXTS]]
    documents = [tokenizer.decode(ids) for ids in texts]
    queries = [tokenizer.decode(ids[:_QUERY]) for ids in texts]
    return [pair for shift in (0, 1) for pair in zip([*queries[shift:], *queries[:shift]], documents)]
