"""Counts which experts a demo model with experts takes, by layer and area, over texts drawn as training draws them.

Run it: `python -m tools.demo_model.router_statistics q3edge/data/demo_moe`; it writes router_statistics.jsonl there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from .batches import padded
from .curriculum import MIX, dialogue, written
from .evaluate import load
from .experts import RouterWatch
from .files import token_id, write_lines

FILE = "router_statistics.jsonl"
SEED, TEXTS = 2024, 600
_AT_ONCE = 100


@torch.inference_mode()
def counts(model: PreTrainedModel, watch: RouterWatch, texts: list[list[int]], pad: int) -> torch.Tensor:
    """Tokens of each expert [layers, experts], over all tokens of the texts."""
    total = torch.zeros(model.config.num_hidden_layers, model.config.num_experts, dtype=torch.long)
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), _AT_ONCE):
        ids = torch.from_numpy(padded(ordered[start : start + _AT_ONCE], pad))
        model.model(input_ids=ids, use_cache=False)
        total += torch.stack(watch.counts(ids != pad))
    return total


def statistics(
    model: PreTrainedModel, tokenizer: Tokenizer, seed: int = SEED, texts: int = TEXTS
) -> Iterator[dict[str, Any]]:
    """Yield a row for each area, and for all, and each layer; `experts` has the tokens that took each expert."""
    pad = token_id(tokenizer, "<|endoftext|>")
    rng, watch = Random(seed), RouterWatch(model)
    drawn: dict[str, list[list[int]]] = {area: [] for area in MIX}
    for _ in range(texts):
        talk = dialogue(rng)
        text = written(talk)
        drawn[talk.item.area].append(tokenizer.encode(text.prompt).ids + tokenizer.encode(text.reply).ids)
    areas = {area: counts(model, watch, found, pad) for area, found in drawn.items()}
    for area, layers in {"all": sum(areas.values(), torch.zeros((), dtype=torch.long)), **areas}.items():
        for layer, experts in enumerate(layers.tolist()):
            tokens = sum(experts) // model.config.num_experts_per_tok
            yield {"area": area, "layer": layer, "tokens": tokens, **evenness(experts), "experts": experts}


def evenness(experts: Sequence[int]) -> dict[str, float]:
    """How evenly the tokens are spread.

    least, most: tokens of the least and the most used expert, as multiples of an even share. balance: e to the entropy
    of the shares, divided by the experts; 1 where all are used alike, 1 / experts where one is used alone.
    """
    shares = [count / sum(experts) for count in experts]
    entropy = -sum(share * math.log(share) for share in shares if share)
    return {
        "least": round(min(shares) * len(shares), 3),
        "most": round(max(shares) * len(shares), 3),
        "balance": round(math.exp(entropy) / len(shares), 4),
    }


def main() -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write_lines(options.folder / FILE, statistics(*load(options.folder)))


if __name__ == "__main__":
    main()
