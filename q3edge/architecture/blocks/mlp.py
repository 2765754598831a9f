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


def gated_tensors(config: Qwen3Config, width: int, expert: str = "") -> tuple[Tensor, ...]:
    """Tensors gate, up and down of one MLP `width` wide; expert: prefix of their fields, such as "experts.3."."""
    hidden = config.hidden_size
    shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    return tuple(Tensor(expert + name, f"mlp.{expert}{name}.weight", shape) for name, shape in shapes.items())


def gated_groups(width: int, *, fold: NormFold | None, expert: str = "") -> tuple[InputGroup, ...]:
    """Input groups of one MLP: gate and up share the block's input; an input channel of down is a row of up."""
    return (
        InputGroup(f"{expert}gate_up", (f"{expert}gate_proj", f"{expert}up_proj"), fold),
        InputGroup(f"{expert}down", (f"{expert}down_proj",), RowFold(f"{expert}up_proj", width, 1, 1)),
    )
