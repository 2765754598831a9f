"""`GenerationSettings`: how tokens are chosen and when to stop. Defaults come from the checkpoint's files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact.side_files import GENERATION_CONFIG_FILE
from q3edge.errors import InputError, UsageError
from q3edge.storage.json_files import read_json_object

DEFAULT_MAX_NEW_TOKENS = 1024
_SMALLEST_TEMPERATURE = 1e-3  # below it logits / temperature overflows; 0 says what is meant


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """`temperature` 0 is greedy, `top_k` 0 and `top_p` 1 are off; without a `seed` every run differs."""

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """UsageError names the first value out of range."""
        for name, valid, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            (
                "temperature",
                self.temperature == 0 or _SMALLEST_TEMPERATURE <= self.temperature <= 100,
                "0, or 0.001-100",
            ),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise UsageError(f"{name} = {getattr(self, name)!r}: expected {expected}")

    @property
    def repeatable(self) -> bool:
        """Whether the same prompt should give the same text every time."""
        return self.temperature == 0 or self.seed is not None

    @classmethod
    def load(cls, folder: Path, config: Qwen3Config) -> GenerationSettings:
        """What folder/generation_config.json says, as transformers reads it; a filter it does not name is off.

        Stops at its eos_token_id and config.json's. No such file: greedy. InputError: a value of the wrong type.
        """
        path = folder / GENERATION_CONFIG_FILE
        raw = read_json_object(path) if path.exists() else {}
        sampled = raw.get("do_sample") is True
        try:
            return cls(
                max_new_tokens=_number(raw, "max_new_tokens", int, DEFAULT_MAX_NEW_TOKENS),
                temperature=_number(raw, "temperature", float, 1.0) if sampled else 0.0,
                top_k=_number(raw, "top_k", int, 0) if sampled else 0,
                top_p=_number(raw, "top_p", float, 1.0) if sampled else 1.0,
                stop_token_ids=_stop_ids(raw) | frozenset(config.eos_token_ids),
            )
        except (UsageError, ValueError) as error:
            raise InputError(f"{path}: {error}; correct the file") from None

    def override(self, **flags: Any) -> GenerationSettings:
        """These settings with the flags that are not None in place of theirs."""
        return replace(self, **{name: value for name, value in flags.items() if value is not None})


def _number(raw: dict[str, Any], name: str, kind: type, default: float) -> Any:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ValueError(f"{name} = {value!r}: expected a number")
    return kind(value)


def _stop_ids(raw: dict[str, Any]) -> frozenset[int]:
    value = raw.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ValueError(f"eos_token_id = {value!r}: expected token ids")
    return frozenset(ids)
