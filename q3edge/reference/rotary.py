"""Rotary position embedding: cos/sin tables and the rotation. The frequencies are in `q3edge.architecture.rope`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from q3edge.architecture.config import Qwen3Config


@dataclass(frozen=True, slots=True, eq=False)
class RotaryTables:
    """Tables of cos and signed sin of positions 0..S-1, times YaRN's attention factor; both float32 [S, head_dim].

    Element i pairs with i + head_dim/2, as in transformers; sin is negated in the first half, so that a rotation is
    x * cos + (x with its halves swapped) * sin.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def of(cls, config: Qwen3Config, length: int) -> RotaryTables:
        """Tables for `length` positions."""
        frequencies = torch.from_numpy(config.rope.inverse_frequencies(config.head_dim))
        angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
        cos, sin = angles.cos() * config.rope.attention_factor, angles.sin() * config.rope.attention_factor
        return cls(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate queries or keys [B, heads, S, head_dim], with S at most the tables' length."""
        cos, sin = (table[: x.shape[-2]] for table in (self.cos, self.sin))
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
