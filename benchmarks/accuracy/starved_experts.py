"""Tokens of experts that the calibration text leaves short: their KL, calibrated and rounded to nearest.

    python benchmarks/accuracy/starved_experts.py tokens.npz --work FOLDER

The embedded mixture of experts. Of 6000 dialogues like its calibration's, those 400 are calibrated on whose tokens go
least to a quarter of the experts of each layer, which the search chooses too. tokens.npz is that of
embedded_tokens.py: on its judging tokens the KL to the float model is averaged with the number of its choices
that are starved experts as a token's weight. "experts": attention stays float. "all text": the calibration tokens of
tokens.npz, which starve nothing.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge import Judge
from numpy.typing import NDArray

import q3edge
from q3edge.checkpoint import open_float_model
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.reference.routing import chosen_experts
from q3edge.runtime.padding import right_padded
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from machine import machine_line

from tools.demo_model.calibration import records
from tools.demo_model.files import write_lines

MODEL = Path(str(files("q3edge.data") / "demo_moe"))
DIALOGUES, SEED, CHOSEN, STARTS = 6000, 7, 400, 40
ROWS, LENGTH = 110, 128  # of the calibration: what the chosen dialogues fill
Floats = NDArray[np.float64]


def main() -> None:
    """Choose, quantize, judge, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    dialogues = [*records(SEED, DIALOGUES)]
    chosen, starved = starving(counts_of(dialogues))
    write_lines(text := work / "starved.jsonl", [dialogues[number] for number in chosen])
    with np.load(options.tokens) as stored:
        judging = stored["judging"][:, :-1]
        np.save(whole := work / "whole.npy", stored["calibration"])
    folders = {}
    for part, recipe in {"all": Recipe.for_format("int4"), "experts": experts_alone()}.items():
        folders[part, "to nearest"] = quantized(work / f"{part}-rtn", recipe, method="rtn")
        few = {"calibration": text, "samples": ROWS, "seq_len": LENGTH}
        folders[part, "starved"] = quantized(work / f"{part}-starved", recipe, **few)
        folders[part, "all text"] = quantized(work / f"{part}-whole", recipe, calibration=whole)
    weights = starved_choices(judging, starved)
    print(machine_line())
    found = dict(Judge(MODEL, options.tokens).metrics([*folders.values()]))
    for (part, how), folder in folders.items():
        kl = np.concatenate([window.kl for window in found[folder]])
        print(
            f"{part:8} {how:10}  all tokens {kl.mean():.4f}  of starved experts {np.average(kl, weights=weights):.4f}"
        )


def counts_of(dialogues: list[dict[str, Any]]) -> Floats:
    """Count the tokens of each dialogue that go to each expert: [D, L, E]."""
    template, tokenizer = ChatTemplate.load(MODEL), Tokenizer.load(MODEL, 1280)
    assert template is not None
    encoder = ChatEncoder(tokenizer, template, str(MODEL))
    ids = [encoder.encode(each["messages"], add_generation_prompt=False) for each in dialogues]
    template.close()
    source = open_float_model(MODEL)
    assert source.config.moe is not None
    number, layers = source.config.moe.num_experts, source.config.num_hidden_layers
    counts = np.zeros((len(ids), layers, number))
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    for start in range(0, len(order), 512):
        places = order[start : start + 512]
        padded = right_padded([ids[place] for place in places])
        for layer, experts in chosen_experts(source, padded, label="routing").items():
            for place, own in zip(places, experts):
                counts[place, layer] = np.bincount(own[: len(ids[place])].flatten(), minlength=number)
    source.close()
    return counts


def starving(counts: Floats) -> tuple[list[int], NDArray[np.bool_]]:
    """Choose dialogues, and the quarter of the experts [L, E] that they starve most; prints how much.

    From several starts, in turn: the experts with the smallest share of what they usually have, and the dialogues that
    use these least.
    """
    shares = counts / counts.sum((1, 2), keepdims=True)
    usual = counts.sum(0) / counts.sum()
    quarter = counts.shape[2] // 4
    best: tuple[float, list[int], NDArray[np.bool_]] | None = None
    for start in np.random.default_rng(0).integers(len(counts), size=STARTS):
        chosen = np.argsort(-(shares[start] * shares).sum((1, 2)), kind="stable")[:CHOSEN]
        starved = np.zeros(usual.shape, bool)
        for _ in range(60):
            now = counts[chosen].sum(0) / counts[chosen].sum()
            starved[:] = False
            np.put_along_axis(starved, np.argsort(now / usual, axis=1)[:, :quarter], True, axis=1)
            later = np.argsort((shares * starved).sum((1, 2)), kind="stable")[:CHOSEN]
            if set(later) == set(chosen):
                break
            chosen = later
        share = float(counts[chosen].sum(0)[starved].sum() / counts[chosen].sum() / usual[starved].sum())
        if best is None or share < best[0]:
            best = share, chosen.tolist(), starved.copy()
    assert best is not None
    tokens = counts[best[1]].sum(0)
    print(
        f"{CHOSEN} dialogues give the starved experts {best[0]:.2f} of their usual share: "
        f"{tokens[best[2]].min():.0f} to {tokens[best[2]].max():.0f} tokens, the others {tokens[~best[2]].mean():.0f}"
    )
    return best[1:]


def experts_alone() -> Recipe:
    """Recipe of int4 with float attention."""
    recipe = Recipe.for_format("int4")
    return Recipe((Rule("model.layers.*.self_attn.*_proj", None), *recipe.rules))


def quantized(folder: Path, recipe: Recipe, **how: Any) -> Path:
    """Quantize into a folder, unless it is there."""
    if not folder.exists():
        q3edge.quantize(MODEL, folder, recipe, **how)
    return folder


def starved_choices(token_ids: NDArray[np.int64], starved: NDArray[np.bool_]) -> Floats:
    """Count the choices of starved experts, over all layers, of each token: [B * S]."""
    source = open_float_model(MODEL)
    chosen = chosen_experts(source, token_ids, label="routing")
    source.close()
    found = sum(torch.from_numpy(starved[layer])[experts].sum(-1) for layer, experts in chosen.items())
    assert isinstance(found, torch.Tensor)
    return found.flatten().double().numpy()


if __name__ == "__main__":
    main()
