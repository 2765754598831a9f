"""`GenerationSettings`: how tokens are sampled and when to stop. Defaults come from the checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact.side_files import GENERATION_CONFIG_FILE
from q3edge.errors import InputError, UsageError
from q3edge.storage.json_files import read_json_object

DEFAULT_MAX_NEW_TOKENS = 1024
_WHOLE, _NUMBER = (Integral, "a whole number"), (Real, "a number")
_KINDS: dict[str, tuple[type, str]] = {
    "max_new_tokens": _WHOLE, "temperature": _NUMBER, "top_k": _WHOLE, "top_p": _NUMBER, "seed": _WHOLE,
}  # fmt: skip
_SMALLEST_TEMPERATURE = 1e-3  # below it logits / temperature overflows; greedy is 0


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of generation. temperature 0 is greedy, top_k 0 and top_p 1 are off; without a seed every run differs.

    `stop_token_ids` may be given as any collection of whole numbers; None: those of the model that is asked.
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: frozenset[int] | None = None

    def __post_init__(self) -> None:
        """Check every value; TypeError names the first of the wrong type, UsageError the first out of range."""
        for name, (kind, expected) in _KINDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, kind) or (name == "seed" and value is None)):
                raise TypeError(f"{name}: give {expected}, not {value!r}")
        if self.stop_token_ids is not None:
            object.__setattr__(self, "stop_token_ids", _token_ids(self.stop_token_ids))
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
        """True if the same prompt should give the same text every time: greedy, or with a seed."""
        return self.temperature == 0 or self.seed is not None

    @classmethod
    def load(cls, folder: Path, config: Qwen3Config) -> GenerationSettings:
        """Read folder/generation_config.json as transformers does, but a filter that it does not name is off.

        Stop tokens are its eos_token_id and config.json's. No such file: greedy. InputError: a value of the wrong type
        or out of range.
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

    def override(
        self, settings: GenerationSettings | Mapping[str, Any] | None = None, /, **named: Any
    ) -> GenerationSettings:
        """Copy of these settings with those of `settings`, then those `named`; a value of None changes nothing.

        GenerationSettings replace all of these, but stop tokens of None, and a mapping only those that it has.
        TypeError: a name that does not exist, or a value of the wrong type. UsageError: a value out of range.
        """
        if isinstance(settings, GenerationSettings):
            own_stops = settings.stop_token_ids is not None
            whole = settings if own_stops else replace(settings, stop_token_ids=self.stop_token_ids)
            return whole.override(**named)
        if settings is not None and not isinstance(settings, Mapping):
            raise TypeError(f"settings: give GenerationSettings or a dict, not {type(settings).__name__}")
        given = {name: value for name, value in {**(settings or {}), **named}.items() if value is not None}
        valid = [field.name for field in fields(self)]
        if unknown := [name for name in given if name not in valid]:
            raise TypeError(f"unknown setting {unknown[0]!r}: expected some of {', '.join(valid)}")
        return replace(self, **given)


def _token_ids(value: object) -> frozenset[int]:
    ids = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [None]
    found = frozenset(int(i) for i in ids if isinstance(i, Integral) and not isinstance(i, bool))
    if len(found) != len(set(ids)):
        raise TypeError(f"stop_token_ids: give a set of token ids, not {value!r}")
    return found


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
