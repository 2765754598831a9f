"""The experts of a sparse demo model in training: how evenly the router uses them, and their matrices one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.functional import normalize
from transformers import PreTrainedModel

_REMEMBERED = 0.9  # of the tokens counted so far, at each batch


def routers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The routers of the layers that have one."""
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]


class RouterWatch:
    """Sees what every router decides, and says how uneven that is over the whole batch.

    The loss of a layer is experts x sum of (share of the choices x mean probability), as Qwen3's report describes it:
    over all tokens of all texts of a batch, and not for each text, so that an expert may keep to one kind of text. As
    the texts of a batch have one length, the shares are a running mean over about ten batches. Even use gives 1.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._shares: list[torch.Tensor] = []
        for number, router in enumerate(routers(model)):
            router.register_forward_hook(partial(self._see, number))

    def _see(self, number: int, _router: Any, _given: Any, result: tuple[torch.Tensor, ...]) -> None:
        logits, _, chosen = result
        self._seen[number] = logits, chosen

    def counts(self, real: torch.Tensor) -> list[torch.Tensor]:
        """Tokens of each expert [experts] in the last forward pass, by layer; real [rows, columns]: not padding."""
        flat = real.flatten()
        seen = self._seen.values()
        return [torch.bincount(chosen[flat].flatten(), minlength=logits.shape[1]) for logits, chosen in seen]

    def loss(self, real: torch.Tensor) -> torch.Tensor:
        """Mean loss of the layers in the last forward pass; real [rows, columns]: not padding."""
        now = [count / count.sum() for count in self.counts(real)]
        before = self._shares or now
        self._shares = [old.lerp(new, 1 - _REMEMBERED) for old, new in zip(before, now, strict=True)]
        chances = [logits[real.flatten()].float().softmax(-1).mean(0) for logits, _ in self._seen.values()]
        each = [len(share) * (share * mean).sum() for share, mean in zip(self._shares, chances, strict=True)]
        return torch.stack(each).mean()

    def spread(self) -> list[list[float]]:
        """Share of the least and of the most used expert by layer, as multiples of the even share."""
        return [[round(float(end) * len(share), 2) for end in share.aminmax()] for share in self._shares]


def expert_matrices(fused: torch.Tensor, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the matrices of a fused tensor as views, with the names that they have in a checkpoint.

    fused: gate_up_proj [experts, 2 x width, hidden] or down_proj [experts, hidden, width]; name: ends with either.
    """
    block, kinds = name.rpartition(".")[0], _kinds(name)
    for number, expert in enumerate(fused):
        for part, matrix in zip(kinds, expert.chunk(len(kinds)), strict=True):
            yield f"{block}.{number}.{part}.weight", matrix


class ExpertMatrices:
    """The experts' matrices in stacks [matrices, rows, columns], for an optimizer of matrices.

    parameters: of each layer the gate and up projections in one stack, the down projections in another; they share
    the model's memory.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._fused, self.parameters = [], []
        for name, tensor in model.named_parameters():
            if tensor.ndim == 3:
                matrices = len(tensor) * len(_kinds(name))
                self._fused.append(tensor)
                self.parameters.append(Parameter(tensor.detach().view(matrices, -1, tensor.shape[2])))

    def take_gradients(self) -> None:
        """Give each stack the model's gradients."""
        for tensor, stack in zip(self._fused, self.parameters, strict=True):
            stack.grad = None if tensor.grad is None else tensor.grad.view(stack.shape)


@torch.no_grad()
def take_over(model: PreTrainedModel, dense: PreTrainedModel, seed: int) -> None:
    """Start a model with experts from a dense one of the same width and layers, all but its MLPs as they are.

    An expert gets neurons of the MLP whose gates look in one direction, and the router's row is that direction. Down
    projections are multiplied by the experts a token takes, as their gates share 1 and the neurons' counted 1 each.
    """
    model.load_state_dict(dense.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(seed)
    for layer, old in zip(model.model.layers, dense.model.layers, strict=True):
        experts, router, mlp = layer.mlp.experts, layer.mlp.gate.weight, old.mlp
        width = model.config.moe_intermediate_size
        for number, neurons in enumerate(_neighbours(mlp.gate_proj.weight, len(router), width, generator)):
            gate, up = mlp.gate_proj.weight[neurons], mlp.up_proj.weight[neurons]
            experts.gate_up_proj[number] = torch.cat([gate, up])
            experts.down_proj[number] = mlp.down_proj.weight[:, neurons] * model.config.num_experts_per_tok
            router[number] = normalize(gate, dim=1).mean(0)


def _neighbours(gates: torch.Tensor, groups: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield groups of neurons with similar gates [neurons, hidden]; all neurons are taken before one is again."""
    directions = normalize(gates, dim=1)
    free = torch.zeros(0, dtype=torch.long)
    for _ in range(groups):
        if len(free) < size:
            free = torch.randperm(len(gates), generator=generator)
        taken = (directions[free] @ directions[free[0]]).topk(size).indices
        yield free[taken]
        kept = torch.ones(len(free), dtype=torch.bool)
        kept[taken] = False
        free = free[kept]


def _kinds(name: str) -> tuple[str, ...]:
    """The projections in a fused tensor of that name."""
    kind = name.rpartition(".")[2]
    return ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
