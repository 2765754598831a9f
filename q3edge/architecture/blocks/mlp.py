"""The dense MLP: silu(gate) * up, then down (Qwen3MLP of transformers)."""

from __future__ import annotations

from q3edge.architecture.blocks.description import Block, InputGroup, NormFold, RowFold, Tensor
from q3edge.architecture.config import Qwen3Config

KIND = "mlp"
NORM = "post_attention_layernorm"


def describe(config: Qwen3Config, layer: int) -> Block | None:
    """Describe the block of a layer without experts; None for others."""
    if config.is_moe_layer(layer):
        return None
    width = config.intermediate_size
    return Block(
        kind=KIND,
        tensors=(Tensor(NORM, f"{NORM}.weight", (config.hidden_size,)), *gated_tensors(config, width)),
        norm=NORM,
        groups=gated_groups(width, fold=NormFold(NORM)),
    )


def expert_prefix(expert: int | None) -> str:
    """Prefix of the fields of an expert's tensors, such as "experts.3."; none for a dense MLP."""
    return "" if expert is None else f"experts.{expert}."


def gated_tensors(config: Qwen3Config, width: int, *, expert: int | None = None) -> tuple[Tensor, ...]:
    """Tensors gate, up and down of one MLP `width` wide, which is an expert with this number, or dense."""
    hidden, prefix = config.hidden_size, expert_prefix(expert)
    shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    return tuple(Tensor(prefix + name, f"mlp.{prefix}{name}.weight", shape) for name, shape in shapes.items())


def gated_groups(width: int, *, fold: NormFold | None, expert: int | None = None) -> tuple[InputGroup, ...]:
    """Input groups of one MLP: gate and up share the block's input; an input channel of down is a row of up."""
    prefix = expert_prefix(expert)
    return (
        InputGroup(f"{prefix}gate_up", (f"{prefix}gate_proj", f"{prefix}up_proj"), fold, expert),
        InputGroup(f"{prefix}down", (f"{prefix}down_proj",), RowFold(f"{prefix}up_proj", width, 1, 1), expert),
    )
