"""Scores a demo checkpoint on the held-out questions, as it is or with fake-quantized weights.

Run it: `python -m tools.demo_model.evaluate q3edge/data/demo_model --bits 16 4 3 --groups 32 128`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from .chat_template import Conversation, prompt_text
from .curriculum import questions
from .experts import routers
from .files import read_lines, token_id

MAX_NEW = 112
Scores = dict[str, float]


def load(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a checkpoint in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


@torch.inference_mode()
def _continue(model: PreTrainedModel, prompts: list[list[int]], stop: int) -> list[list[int]]:
    """Greedy generation of all prompts at once, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), stop)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    out: Any = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=MAX_NEW,
        eos_token_id=stop,
        pad_token_id=stop,
    )
    return [row[: row.index(stop)] if stop in row else row for row in out[:, width:].tolist()]


def answers(model: PreTrainedModel, tokenizer: Tokenizer, rows: list[dict[str, Any]]) -> list[str]:
    """The model's answers: what follows the last thought, stripped."""
    stop = token_id(tokenizer, "<|im_end|>")
    result = [""] * len(rows)
    for thinking in (False, True):
        chosen = [i for i, row in enumerate(rows) if row["thinking"] is thinking]
        texts = [prompt_text(Conversation(rows[i]["question"]), thinking) for i in chosen]
        replies = _continue(model, [tokenizer.encode(text).ids for text in texts], stop) if chosen else []
        for i, reply in zip(chosen, replies, strict=True):
            text = tokenizer.decode(reply, skip_special_tokens=False)
            result[i] = text.split("</think>")[-1].strip()
    return result


def score(rows: list[dict[str, Any]], given: list[str]) -> Scores:
    """Share of exact answers: by area, by mode, by area and mode, and of all."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for row, answer in zip(rows, given, strict=True):
        mode = "thinking" if row["thinking"] else "direct"
        for name in (row["area"], mode, f"{row['area']}/{mode}", "all"):
            hits[name].append(answer == row["answer"])
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(hits.items())}


def fake_quantize(model: PreTrainedModel, bits: int, group: int) -> None:
    """Round every matrix of the layers but the routers to symmetric integers, one scale a group, in place."""
    top = 2 ** (bits - 1) - 1
    kept = {id(router.weight) for router in routers(model)}
    for weight in model.model.layers.parameters():
        if weight.ndim >= 2 and id(weight) not in kept:
            parts = weight.data.unflatten(-1, (-1, group))
            scale = parts.abs().amax(-1, keepdim=True).clamp(min=1e-8) / top
            weight.data = ((parts / scale).round().clamp(-top - 1, top) * scale).flatten(-2)


def main() -> None:
    """Score the checkpoint and print one JSON line per weight form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=Path, help="another question file than the held-out questions")
    parser.add_argument("--bits", type=int, nargs="+", default=[16], help="16 leaves the weights as they are")
    parser.add_argument("--groups", type=int, nargs="+", default=[32])
    parser.add_argument("--show-wrong", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    rows = read_lines(options.questions) if options.questions else [asdict(question) for question in questions()]
    for bits in options.bits:
        for group in options.groups if bits < 16 else [0]:
            model, tokenizer = load(options.folder)
            if bits < 16:
                fake_quantize(model, bits, group)
            given = answers(model, tokenizer, rows)
            print(json.dumps({"bits": bits, "group": group, **score(rows, given)}), flush=True)
            for row, answer in zip(rows, given, strict=True):
                if options.show_wrong and answer != row["answer"]:
                    print(json.dumps({**row, "given": answer}, ensure_ascii=False))


if __name__ == "__main__":
    main()
