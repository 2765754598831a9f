"""How the demo model with experts is made: its start from the dense one, its balance, its optimizer and its files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from q3edge.checkpoint import Checkpoint
from tools.demo_model.curriculum import MIX
from tools.demo_model.evaluate import answers, load, score
from tools.demo_model.experts import ExpertMatrices, RouterWatch, take_over
from tools.demo_model.files import read_lines
from tools.demo_model.muon import Muon
from tools.demo_model.network import MOE, config_dict, new_model, save_checkpoint
from tools.demo_model.router_statistics import evenness, statistics

DENSE = Path(str(files("q3edge.data") / "demo_model"))
MODEL = Path(str(files("q3edge.data") / "demo_moe"))
LAYERS, EXPERTS, TOP_K = 4, MOE["num_experts"], MOE["num_experts_per_tok"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DENSE / "tokenizer.json"))


def small(tokenizer: Tokenizer, **changes: Any) -> PreTrainedModel:
    """A model with experts of this kind, and random weights everywhere."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config_dict(tokenizer, True), **changes}))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model.float().eval()


def test_the_checkpoint_is_complete_and_small() -> None:
    with Checkpoint.open(MODEL) as checkpoint:
        assert checkpoint.stored_bytes <= 8_000_000
        assert checkpoint.notices == ()
        moe = checkpoint.config.moe
    assert moe is not None
    assert (moe.num_experts, moe.num_experts_per_tok, moe.norm_topk_prob) == (EXPERTS, TOP_K, True)
    assert moe.moe_intermediate_size % 32 == 0


def test_both_models_have_one_tokenizer() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (MODEL / name).read_bytes() == (DENSE / name).read_bytes()


@pytest.mark.slow
def test_transformers_loads_it_and_it_answers() -> None:
    rows = read_lines(DENSE / "questions.jsonl")[::6]
    assert score(rows, answers(*load(MODEL), rows))["all"] > 0.8


def test_the_training_log_ends_with_the_accuracy_that_the_card_names() -> None:
    last = read_lines(MODEL / "training_log.jsonl")[-1]
    assert last["accuracy"]["all"] > 0.85
    row = next(line for line in (MODEL / "README.md").read_text().splitlines() if line.startswith("| all |"))
    assert row.endswith(f"| {100 * last['accuracy']['all']:.1f} % |")


def test_router_statistics_add_up_and_every_expert_is_used() -> None:
    rows = {(row["area"], row["layer"]): row for row in read_lines(MODEL / "router_statistics.jsonl")}
    assert set(rows) == {(area, layer) for area in ("all", *MIX) for layer in range(LAYERS)}
    for row in rows.values():
        assert sum(row["experts"]) == TOP_K * row["tokens"]
        assert len(row["experts"]) == EXPERTS
        assert {name: row[name] for name in ("least", "most", "balance")} == evenness(row["experts"])
    for layer in range(LAYERS):
        whole = rows["all", layer]["experts"]
        assert min(whole) > 0
        assert [sum(each) for each in zip(*(rows[area, layer]["experts"] for area in MIX), strict=True)] == whole


@pytest.mark.slow
def test_router_statistics_are_what_the_tool_counts() -> None:
    counted = list(statistics(*load(MODEL)))
    for row, found in zip(read_lines(MODEL / "router_statistics.jsonl"), counted, strict=True):
        assert [row[name] for name in ("area", "layer", "tokens")] == [found[n] for n in ("area", "layer", "tokens")]
        moved = sum(abs(a - b) for a, b in zip(row["experts"], found["experts"], strict=True))
        assert moved <= 0.01 * sum(row["experts"])  # near ties, which another machine decides otherwise


def test_evenness_of_even_and_of_single_use() -> None:
    assert evenness([5, 5, 5, 5]) == {"least": 1, "most": 1, "balance": 1}
    assert evenness([0, 8, 0, 0]) == {"least": 0, "most": 4, "balance": 0.25}


def test_a_checkpoint_has_the_names_of_released_models_and_transformers_reads_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = new_model(tokenizer, moe=True)
    save_checkpoint(model, tokenizer, tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.notices == ()
        names = {name for name in checkpoint.names() if ".mlp." in name}
    block = "model.layers.{}.mlp."
    assert names == {block.format(layer) + "gate.weight" for layer in range(LAYERS)} | {
        f"{block.format(layer)}experts.{expert}.{kind}_proj.weight"
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
        for kind in ("gate", "up", "down")
    }
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again[name], value.bfloat16().float(), rtol=0, atol=0)


def test_training_computes_what_transformers_plain_loop_over_experts_does(tokenizer: Tokenizer) -> None:
    model = small(tokenizer)
    ids = torch.arange(40).reshape(2, 20)
    results = []
    for implementation in ("eager", new_model(tokenizer, moe=True).config._experts_implementation):
        model.set_experts_implementation(implementation)
        model.zero_grad()
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        results.append([logits.detach(), *(weight.grad.clone() for weight in model.parameters())])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-5)


def test_with_all_its_experts_an_upcycled_model_is_the_dense_one(tokenizer: Tokenizer) -> None:
    dense, _ = load(DENSE)
    experts = dense.config.intermediate_size // MOE["moe_intermediate_size"]
    model = small(tokenizer, num_experts=experts, num_experts_per_tok=experts)
    take_over(model, dense, seed=1)
    for layer in model.model.layers:
        assert layer.mlp.gate.weight.abs().sum() > 0
        torch.nn.init.zeros_(layer.mlp.gate.weight)
    ids = torch.arange(100, 130)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, dense(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_the_balance_loss_is_the_whole_batchs_and_padding_does_not_count(tokenizer: Tokenizer) -> None:
    model = small(tokenizer)
    watch = RouterWatch(model)
    ids = torch.randint(0, 1000, (3, 12), generator=torch.Generator().manual_seed(5))
    real = torch.ones(ids.shape, dtype=torch.bool)
    real[1, 7:] = False
    result = model(input_ids=ids, output_router_logits=True)
    expected = []
    for logits in result.router_logits:
        chances = logits[real.flatten()].softmax(-1)
        chosen = chances.topk(TOP_K).indices.flatten().tolist()
        shares = torch.tensor([chosen.count(expert) / len(chosen) for expert in range(EXPERTS)])
        expected.append(EXPERTS * (shares * chances.mean(0)).sum())
    torch.testing.assert_close(watch.loss(real), torch.stack(expected).mean())
    assert all(count.sum() == TOP_K * real.sum() for count in watch.counts(real))


def test_even_routers_cost_one(tokenizer: Tokenizer) -> None:
    model = small(tokenizer, num_experts_per_tok=EXPERTS)
    watch = RouterWatch(model)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.gate.weight)
    ids = torch.arange(30)[None]
    model(input_ids=ids)
    assert watch.loss(ids >= 0).item() == pytest.approx(1)
    assert watch.spread() == [[1.0, 1.0]] * LAYERS


def test_stacks_of_experts_are_the_models_own_memory(tokenizer: Tokenizer) -> None:
    model = small(tokenizer)
    experts = ExpertMatrices(model)
    model(input_ids=torch.arange(30)[None]).logits.square().mean().backward()
    experts.take_gradients()
    first = model.model.layers[0].mlp.experts
    gates, downs = experts.parameters[:2]
    width = MOE["moe_intermediate_size"]
    assert [tuple(stack.shape[1:]) for stack in (gates, downs)] == [(width, 256), (256, width)]
    assert torch.equal(gates[3], first.gate_up_proj[1, width:])
    assert gates.grad is not None
    assert torch.equal(gates.grad[3], first.gate_up_proj.grad[1, width:])
    before = first.down_proj.detach().clone()
    Muon(experts.parameters, lr=0.1, weight_decay=0.0).step()
    assert not torch.equal(first.down_proj, before)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48)])
def test_muon_is_torchs_for_each_matrix_of_a_stack(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, *shape, generator=generator)
    stack = torch.nn.Parameter(start.clone())
    singles = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    optimizers: list[torch.optim.Optimizer] = [
        Muon([stack], lr=0.01, weight_decay=0.1),
        torch.optim.Muon(singles, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        stack.grad = torch.randn(3, *shape, generator=generator)
        for single, gradient in zip(singles, stack.grad, strict=True):
            single.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    expected = torch.stack([single.detach() for single in singles])
    assert (stack.detach() - expected).norm() < 0.05 * (expected - start).norm()  # both iterate in bfloat16
