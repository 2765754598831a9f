"""`SamplingFields`: the fields of chat and plain completions that say how tokens are chosen and when to stop."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from q3edge.errors import UsageError
from q3edge.runtime.generation.setting_table import MAX_BIASES, MAX_STOP_STRINGS, SETTINGS
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.server.body import Body
from q3edge.server.errors import bad_field
from q3edge.server.limits import MAX_CHOICES, MAX_STOP_IDS

_LARGEST = 2**63 - 1  # of whole numbers: seeds and counts
Whole = Annotated[int, Field(ge=-(2**31), le=_LARGEST)]
Text = Annotated[str, Field(max_length=10_000)]
# Of either kind: what is wrong is said of the kind that it is, and not of both.
OneOrMore = Annotated[
    Annotated[str, Tag("str")] | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS), Tag("list[str]")],
    Discriminator(lambda value: "list[str]" if isinstance(value, list) else "str"),
]
# Fields and the settings that they are, where the names differ.
_SETTINGS = {
    "max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens", "stop": "stop_strings",
    "min_tokens": "min_new_tokens", "seed": "seed", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k",
    "min_p": "min_p", "repetition_penalty": "repetition_penalty", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty", "thinking_budget": "thinking_budget",
}  # fmt: skip


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against who counts bytes on the way: there is none


class SamplingFields(Body):
    """Fields of chat and plain completions, of OpenAI's API and those that vLLM and llama.cpp have added to it."""

    model: Text | None = None
    max_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Whole | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: OneOrMore | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: bool = False
    min_tokens: Whole | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    def settings(self, model: Model, default_tokens: int | None, thinking: int = 0) -> dict[str, Any]:
        """Settings given, of the first answer; the others are the model's own. ApiError 400 names the bad field.

        default_tokens: length of an answer where none is given (None: the model's own), behind so much `thinking`.
        """
        given: dict[str, Any] = {}
        for field, name in _SETTINGS.items():
            value = getattr(self, field, None)
            if field == "top_k" and value == -1:
                value = 0  # off, as vLLM writes it
            if value is not None:
                _check(field, name, value)
                given[name] = value
        context = model.context
        for field in ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"):
            if (getattr(self, field, None) or 0) > context:
                raise bad_field(field, f"the context of this model is {context} tokens")
        if "max_new_tokens" not in given and (default_tokens is not None or thinking):
            given["max_new_tokens"] = (default_tokens or model.defaults.max_new_tokens) + thinking
        vocabulary = model.decoder.config.vocab_size
        if any(not 0 <= token < vocabulary for token in self.stop_token_ids or ()):
            raise bad_field("stop_token_ids", f"the model has ids 0 to {vocabulary - 1}")
        stops = frozenset(self.stop_token_ids or ()) | (model.defaults.stop_token_ids or frozenset())
        if self.ignore_eos or self.stop_token_ids:
            given["stop_token_ids"] = frozenset(self.stop_token_ids or ()) if self.ignore_eos else stops
        if self.logit_bias:
            given["logit_bias"] = self._biases(vocabulary)
        return given

    def _biases(self, vocabulary: int) -> dict[int, float]:
        found = {}
        for name, bias in (self.logit_bias or {}).items():
            if not name.isascii() or not name.isdecimal() or len(name) > 9 or int(name) >= vocabulary:
                raise bad_field("logit_bias", f"{name[:40]!r} is no token id; the model has ids 0 to {vocabulary - 1}")
            found[int(name)] = bias
        _check("logit_bias", "logit_bias", found)
        return found


def _check(field: str, name: str, value: Any) -> None:
    """Check a value as the setting `name` is, with the field's own name in the error."""
    try:
        GenerationSettings(**{name: value})
    except (UsageError, TypeError):
        raise bad_field(field, f"expected {SETTINGS[name].expected or 'another value'}") from None
