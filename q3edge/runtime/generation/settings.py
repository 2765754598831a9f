"""`GenerationSettings`: how tokens are sampled and when to stop. `setting_table` describes each; defaults come from the
checkpoint's files (`checkpoint_settings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from q3edge.errors import UsageError
from q3edge.runtime.generation.answer_format import AnswerFormat, Kind, schema_text
from q3edge.runtime.generation.setting_table import DEFAULT_MAX_NEW_TOKENS, SETTINGS
from q3edge.runtime.text.message_checks import check_unicode

_NUMBERS: Mapping[str, tuple[type, str]] = {"whole": (Integral, "a whole number"), "number": (Real, "a number")}


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of generation. temperature 0 is greedy, top_k 0 and top_p 1 are off; without a seed every run differs.

    `stop_token_ids` may be given as any collection of whole numbers, as `suppress_tokens` and `begin_suppress_tokens`;
    None: those of the model that is asked, empty: none. `stop_strings` are searched in the answer, not in its thinking.
    `logit_bias` is given as a mapping, and kept as pairs of token id and bias; `schema` may be given as a dict, and is
    kept as JSON text. Of `schema`, `regex` and `grammar` one can be given.
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: frozenset[int] | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    stop_strings: tuple[str, ...] = ()
    suppress_tokens: frozenset[int] = frozenset()
    begin_suppress_tokens: frozenset[int] = frozenset()
    min_new_tokens: int = 0
    min_length: int = 0
    max_length: int | None = None
    thinking_budget: int | None = None
    max_repeats: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    schema: str | None = None
    regex: str | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        """Check every value; TypeError names the first of the wrong type, UsageError the first out of range."""
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if value is None and setting.optional:
                continue
            if setting.kind in _NUMBERS:
                kind, expected = _NUMBERS[setting.kind]
                if isinstance(value, bool) or not isinstance(value, kind):
                    raise TypeError(f"{name}: give {expected}, not {value!r}")
            else:
                value = _READERS[setting.kind](name, value)
                object.__setattr__(self, name, value)
            if not setting.valid(value):
                shown = repr(value)
                raise UsageError(f"{name} = {shown[:60]}{'...' * (len(shown) > 60)}: expected {setting.expected}")
        if len(given := self._formats()) > 1:
            raise UsageError(f"{given[0].kind} and {given[1].kind}: an answer has one format; give one of them")

    @property
    def repeatable(self) -> bool:
        """True if the same prompt should give the same text every time: greedy, or with a seed."""
        return self.temperature == 0 or self.seed is not None

    @property
    def answer_format(self) -> AnswerFormat | None:
        """What the answer has to look like, by schema, regex or grammar; None: it is free."""
        return next(iter(self._formats()), None)

    def check_ids(self, vocab_size: int) -> None:
        """Raise UsageError for a token id that a model with `vocab_size` ids does not have."""
        named = {name: getattr(self, name) or () for name, setting in SETTINGS.items() if setting.kind == "ids"}
        named["logit_bias"] = [token for token, _ in self.logit_bias]
        for name, ids in named.items():
            if foreign := [token for token in ids if not 0 <= token < vocab_size]:
                raise UsageError(f"{name}: token id {min(foreign)}: the model has ids 0 to {vocab_size - 1}")

    def for_answer(self, index: int) -> GenerationSettings:
        """Settings of the answer `index`, from 0, of several to one prompt: the seed, where there is one, plus that."""
        return self if self.seed is None else replace(self, seed=self.seed + index)

    def _formats(self) -> list[AnswerFormat]:
        given: dict[Kind, str | None] = {"schema": self.schema, "regex": self.regex, "grammar": self.grammar}
        return [AnswerFormat(kind, text) for kind, text in given.items() if text is not None]

    def override(
        self, settings: GenerationSettings | Mapping[str, Any] | None = None, /, **named: Any
    ) -> GenerationSettings:
        """Copy of these settings with those of `settings`, then those `named`; a value of None changes nothing.

        GenerationSettings replace all of these, but stop tokens of None, and a mapping only those that it has. An own
        max_new_tokens takes the place of a max_length. TypeError: a name that does not exist, or a value of the wrong
        type. UsageError: a value out of range.
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
        if "max_new_tokens" in given:
            given.setdefault("max_length", None)
        if "min_new_tokens" in given:
            given.setdefault("min_length", 0)
        return replace(self, **given)


def _token_ids(name: str, value: object) -> frozenset[int]:
    ids = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [None]
    found = [int(i) for i in ids if isinstance(i, Integral) and not isinstance(i, bool)]
    if len(found) < len(ids):
        raise TypeError(f"{name}: give a set of token ids, not {value!r}")
    return frozenset(found)


def _texts(name: str, value: object) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{name}: give a text or a list of texts, not {value!r}")
    return tuple(found)


def _biases(name: str, value: object) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    expected = f"{name}: give a dict of token ids and numbers, not {value!r}"
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise TypeError(expected)
    found: dict[int, float] = {}
    for pair in pairs:
        match pair:
            case (Integral() as token, Real() as bias) if not isinstance(token, bool) and not isinstance(bias, bool):
                found[int(token)] = float(bias)
            case _:
                raise TypeError(expected)
    return tuple(sorted(found.items()))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: give a text, not {value!r}")
    check_unicode(value, name)
    return value


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "ids": _token_ids, "texts": _texts, "biases": _biases, "text": _text, "schema": schema_text,
}  # fmt: skip
