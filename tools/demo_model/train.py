"""Trains the demo model on the curriculum and writes its checkpoint folder; stops and resumes at will.

Run it: `python -m tools.demo_model.train --out OUT --state STATE --steps 3000`.  Started again with the same
state folder it goes on from the last saved step, also with other values of --steps or --decay.  A file named
`stop` in the state folder ends it after the next step, with everything saved.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel

from .batches import Batch, stream
from .curriculum import questions
from .evaluate import answers, load, score
from .experts import ExpertMatrices, RouterWatch, routers, take_over
from .files import read_lines, write_lines
from .muon import Muon
from .network import new_model, save_checkpoint
from .vocab import build_tokenizer


@dataclass
class Run:
    """What a training run carries from step to step."""

    model: PreTrainedModel
    experts: ExpertMatrices
    watch: RouterWatch | None
    optimizers: list[torch.optim.Optimizer]
    rates: list[float]
    tokenizer: Tokenizer
    step: int = 0
    chunk: int = 0
    tokens: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


def rate_share(step: int, options: argparse.Namespace) -> float:
    """Warm up, stay, then fall along a half cosine over the last --decay steps to a fiftieth."""
    left = max(0, options.steps - step)
    warm = min(1.0, (step + 1) / options.warmup)
    fall = 0.5 * (1 - math.cos(math.pi * min(1.0, left / options.decay)))
    return float(warm * (0.02 + 0.98 * fall))


def build_optimizers(
    model: PreTrainedModel, experts: ExpertMatrices, options: argparse.Namespace
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers; AdamW for the embedding, the routers and (without decay) the norms."""
    rows = [router.weight for router in routers(model)]
    apart = {id(weight) for weight in rows}
    layers = [w for w in model.model.layers.parameters() if w.ndim == 2 and id(w) not in apart]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    decay = options.weight_decay
    others = [
        {"params": [model.model.embed_tokens.weight, *rows], "weight_decay": decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [
        Muon([*layers, *experts.parameters], lr=options.rate, weight_decay=decay),
        torch.optim.AdamW(others, lr=options.rate / 2, betas=(0.9, 0.98), fused=True),
    ]


def batch_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross entropy of the learnt tokens only; the other places never reach the output matrix."""
    positions = torch.arange(batch.ids.shape[1])[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, position_ids=positions, use_cache=False)[0]
        logits = model.lm_head(hidden[batch.rows, batch.columns])
    return cross_entropy(logits.float(), batch.targets)


def balance_loss(watch: RouterWatch, config: PreTrainedConfig, batch: Batch) -> torch.Tensor:
    """What uneven use of the experts costs, at the weight that the configuration names."""
    weight: float = config.router_aux_loss_coef
    return weight * watch.loss(batch.ids != config.pad_token_id)


def train_step(run: Run, batch: Batch, share: float) -> float:
    """One update at that share of the full rates; returns the loss."""
    for optimizer, rate in zip(run.optimizers, run.rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share
    loss = batch_loss(run.model, batch)
    total = loss + balance_loss(run.watch, run.model.config, batch) if run.watch else loss
    run.model.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.experts.take_gradients()
    for optimizer in run.optimizers:
        optimizer.step()
    run.step += 1
    run.tokens += batch.ids.numel()
    return float(loss.detach())


def save_state(run: Run, folder: Path) -> None:
    """Save what a later start needs."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "counts": [run.step, run.chunk, run.tokens, run.seconds],
    }
    torch.save(state, folder / "state.pt.new")
    (folder / "state.pt.new").replace(folder / "state.pt")
    write_lines(folder / "log.jsonl", run.log)


def load_tokenizer(options: argparse.Namespace) -> Tokenizer:
    """The tokenizer of the state folder; at the first start the given one, or one trained now."""
    kept = options.state / "tokenizer.json"
    if kept.exists():
        return Tokenizer.from_file(str(kept))
    tokenizer = Tokenizer.from_file(str(options.tokenizer)) if options.tokenizer else build_tokenizer(options.seed)
    options.state.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(kept))
    return tokenizer


def start(options: argparse.Namespace) -> Run:
    """Build a fresh run, or go on from the state folder."""
    torch.manual_seed(options.seed)
    tokenizer = load_tokenizer(options)
    model = new_model(tokenizer, options.moe)
    if options.dense:
        take_over(model, load(options.dense)[0], options.seed)
    experts = ExpertMatrices(model)
    optimizers = build_optimizers(model, experts, options)
    watch = RouterWatch(model) if options.moe else None
    run = Run(model, experts, watch, optimizers, [options.rate, options.rate / 2], tokenizer)
    if (options.state / "state.pt").exists():
        state = torch.load(options.state / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, kept_state in zip(run.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept_state)
        run.step, run.chunk, run.tokens, run.seconds = state["counts"]
        run.chunk += 1
        run.log = read_lines(options.state / "log.jsonl")
    return run


def report(run: Run, **values: Any) -> None:
    """Log one line."""
    row = {"step": run.step, "tokens": run.tokens, "seconds": round(run.seconds), **values}
    run.log.append(row)
    print(json.dumps(row), flush=True)


def publish(run: Run, options: argparse.Namespace) -> None:
    """Write the checkpoint folder with its questions, and score it."""
    rows = [asdict(question) for question in questions()]
    save_checkpoint(run.model, run.tokenizer, options.out)
    write_lines(options.out / "questions.jsonl", rows)
    run.model.eval()
    report(run, accuracy=score(rows, answers(run.model, run.tokenizer, rows)))
    run.model.train()
    every = max(1, -(-len(run.log) // 200))
    rows = [row for i, row in enumerate(run.log) if i % every == 0 or "accuracy" in row]
    write_lines(options.out / "training_log.jsonl", rows)


def train(run: Run, options: argparse.Namespace) -> None:
    """Train up to --steps, saving and scoring on the way."""
    losses: list[float] = []
    mark = time.monotonic()
    for chunk, batch in stream(run.tokenizer, options.seed, run.chunk, options.tokens):
        run.chunk = chunk
        share = rate_share(run.step, options)
        losses.append(train_step(run, batch, share))
        now = time.monotonic()
        run.seconds, mark = run.seconds + now - mark, now
        if run.step % 50 == 0:
            used = {"experts_used": run.watch.spread()} if run.watch else {}
            report(run, loss=round(sum(losses) / len(losses), 4), rate=round(run.rates[0] * share, 6), **used)
            losses = []
        stop = (options.state / "stop").exists()
        last = run.step >= options.steps or stop
        if last or run.step % options.score_every == 0:
            publish(run, options)
            mark = time.monotonic()
        if last or run.step % options.save_every == 0:
            save_state(run, options.state)
        if last:
            (options.state / "stop").unlink(missing_ok=True)
            return


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--tokenizer", type=Path, help="an existing tokenizer.json; without it one is trained")
    parser.add_argument("--moe", action="store_true", help="the model with experts in place of the dense one")
    parser.add_argument("--dense", type=Path, help="checkpoint folder of a trained dense model to start --moe from")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--decay", type=int, default=1900, help="steps of the final fall of the rate")
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=3072, help="tokens of a batch, padding included")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--score-every", type=int, default=600)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = start(options)
    train(run, options)


if __name__ == "__main__":
    main()
