"""`Statistics`: counts and seconds of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Statistics:
    """Counts and seconds of one request; final once it is finished. A pass that requests share counts for each.

    waiting_seconds: before the first token, for a free slot and in passes of other requests. reused_tokens: the cached
    tokens of the prompt. decode_steps: forward passes after the prefill, the one that yields the stop token included.
    Each yields a token, and one more for each accepted draft token: accepted_tokens of drafted_tokens. forced_tokens:
    those of new_tokens that a thinking budget put there, computed in one pass, or one by one in shared passes.
    decode_tokens: all that decode steps went on by, forced ones too.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    waiting_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_steps: int = 0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    forced_tokens: int = 0
    finish_reason: Literal["stop", "length"] = "length"

    @property
    def time_to_first_token(self) -> float:
        """Seconds until the first token was chosen."""
        return self.waiting_seconds + self.prefill_seconds

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens computed per second; cached ones do not count. 0 before the prefill."""
        computed = self.prompt_tokens - self.reused_tokens
        return computed / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens that decode steps went on by per second; 0 when there was no step."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0
