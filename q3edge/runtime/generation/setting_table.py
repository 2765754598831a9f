"""The settings of generation: kind, range and one description of each, for the library, flags and documentation.

Imports nothing heavy: `--help` needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DEFAULT_MAX_NEW_TOKENS = 1024
MAX_FORMAT_LENGTH = 128 * 2**10  # characters; a schema of that size takes seconds to compile
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 64, 1000
MAX_BIASES, MAX_LOGPROBS = 1024, 20
_SMALLEST_TEMPERATURE = 1e-3  # below it logits / temperature overflows; greedy is 0


class Setting:
    """A setting; `kind` is "whole", "number", "ids", "biases", "texts", "text" or "schema".

    `flag` is its name on the command line (None: not there); from_file: it names a file that has the text. `expected`
    says which values are `valid`, in words. optional: it may be None.
    """

    def __init__(
        self,
        kind: str,
        description: str,
        *,
        expected: str = "",
        valid: Callable[[Any], bool] = lambda _value: True,
        optional: bool = False,
        flag: str | None = None,
        metavar: str = "N",
        from_file: bool = False,
    ) -> None:
        self.kind, self.description, self.expected, self.valid = kind, description, expected, valid
        self.optional, self.flag, self.metavar, self.from_file = optional, flag, metavar, from_file


def _short(text: str) -> bool:
    return len(text) <= MAX_FORMAT_LENGTH


_SHORT = f"at most {MAX_FORMAT_LENGTH} characters"

SETTINGS: Mapping[str, Setting] = {
    "max_new_tokens": Setting(
        "whole", f"Longest answer in tokens (default: the model's own limit, or {DEFAULT_MAX_NEW_TOKENS} without one).",
        expected="at least 1", valid=lambda value: value >= 1, flag="--max-new-tokens",
    ),
    "temperature": Setting(
        "number", "0: always the most likely token (default: the model's).",
        expected="0, or 0.001-100", valid=lambda value: value == 0 or _SMALLEST_TEMPERATURE <= value <= 100,
        flag="--temperature", metavar="T",
    ),
    "top_k": Setting(
        "whole", "Sample from the K most likely tokens; 0: from all.",
        expected="0 (off) or more", valid=lambda value: value >= 0, flag="--top-k", metavar="K",
    ),
    "top_p": Setting(
        "number", "Sample from the most likely tokens with this total probability; 1: from all.",
        expected="above 0 and at most 1 (off)", valid=lambda value: 0 < value <= 1, flag="--top-p", metavar="P",
    ),
    "seed": Setting(
        "whole", "The same seed gives the same text (default: random).",
        expected="0 or more", valid=lambda value: value >= 0, optional=True, flag="--seed", metavar="S",
    ),
    "stop_token_ids": Setting("ids", "Tokens that end an answer (default: the model's).", optional=True),
    "min_p": Setting(
        "number", "Sample only from tokens with this share of the most likely one's probability; 0: from all.",
        expected="0 (off) to 1", valid=lambda value: 0 <= value <= 1, flag="--min-p", metavar="P",
    ),
    "repetition_penalty": Setting(
        "number", "Divide the scores of tokens that the prompt or the answer has, so that they come less; 1: off.",
        expected="0.01-100", valid=lambda value: 0.01 <= value <= 100, flag="--repetition-penalty", metavar="X",
    ),
    "presence_penalty": Setting(
        "number", "Subtract this from the scores of tokens that the answer has; 0: off.",
        expected="-100 to 100", valid=lambda value: -100 <= value <= 100, flag="--presence-penalty", metavar="X",
    ),
    "frequency_penalty": Setting(
        "number", "Subtract this from a token's score for each time that the answer has it; 0: off.",
        expected="-100 to 100", valid=lambda value: -100 <= value <= 100, flag="--frequency-penalty", metavar="X",
    ),
    "no_repeat_ngram_size": Setting(
        "whole", "Let no group of N tokens come twice in prompt and answer; 0: off.",
        expected="0 (off) or more", valid=lambda value: value >= 0, flag="--no-repeat-ngram-size",
    ),
    "stop_strings": Setting(
        "texts", "End the answer before this text, which is looked for in the answer and not in its thinking.",
        expected=f"at most {MAX_STOP_STRINGS} texts of 1 to {MAX_STOP_LENGTH} characters",
        valid=lambda texts: len(texts) <= MAX_STOP_STRINGS and all(0 < len(t) <= MAX_STOP_LENGTH for t in texts),
        flag="--stop", metavar="TEXT",
    ),
    "suppress_tokens": Setting("ids", "Tokens that never come."),
    "begin_suppress_tokens": Setting("ids", "Tokens that no answer begins with."),
    "min_new_tokens": Setting(
        "whole", "Shortest answer in tokens: no stop token comes before.",
        expected="0 or more", valid=lambda value: value >= 0, flag="--min-new-tokens",
    ),
    "min_length": Setting(
        "whole", "Shortest length in tokens of prompt and answer together.",
        expected="0 or more", valid=lambda value: value >= 0,
    ),
    "max_length": Setting(
        "whole", "Greatest length in tokens of prompt and answer together; `max_new_tokens`, where given, goes before.",
        expected="at least 1", valid=lambda value: value >= 1, optional=True,
    ),
    "thinking_budget": Setting(
        "whole", "Stop the thinking after N tokens, and let the answer follow; 0: no thinking (default: no limit).",
        expected="0 or more", valid=lambda value: value >= 0, optional=True, flag="--thinking-budget",
    ),
    "max_repeats": Setting(
        "whole", "End an answer where the same tokens have come N times over, 128 or more in all; 0: never.",
        expected="0 (off), or at least 2", valid=lambda value: value == 0 or value >= 2, flag="--max-repeats",
    ),
    "logit_bias": Setting(
        "biases", "Add to the scores of these tokens, before penalties; -100 bans a token, 100 lets no other come.",
        expected=f"-100 to 100, for at most {MAX_BIASES} tokens",
        valid=lambda biases: len(biases) <= MAX_BIASES and all(-100 <= bias <= 100 for _, bias in biases),
    ),
    "logprobs": Setting(
        "whole", "Tell the log probability of each token, and the N most likely ones in its place (default: off).",
        expected=f"0-{MAX_LOGPROBS}", valid=lambda value: 0 <= value <= MAX_LOGPROBS, optional=True,
    ),
    "schema": Setting(
        "schema", "Let the answer be JSON that this JSON Schema describes.",
        expected=_SHORT, valid=_short, optional=True, flag="--schema", metavar="FILE", from_file=True,
    ),
    "regex": Setting(
        "text", "Let the answer match this regular expression, from its beginning to its end.",
        expected=_SHORT, valid=_short, optional=True, flag="--regex", metavar="TEXT",
    ),
    "grammar": Setting(
        "text", "Let the answer follow this grammar, in Lark's notation.",
        expected=_SHORT, valid=_short, optional=True, flag="--grammar", metavar="FILE", from_file=True,
    ),
}  # fmt: skip
