"""`check_length`, `check_total`: refusals of texts that no context holds, before they are encoded as a whole.

Encoding takes some microseconds a token: seconds for the longest body, and hours where a query goes before a thousand
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from q3edge.server.errors import ApiError, bad_field
from q3edge.server.limits import MAX_BODY

_USUAL_CHARACTERS = 8  # of a token, at most: texts up to there are encoded at once
_SURELY = 2  # times the tokens of parts are more than those of the whole, which may share some at the cuts


def check_length(texts: Sequence[str], encode: Callable[[str], Sequence[int]], tokens: int, param: str) -> None:
    """Raise ApiError 400, which names the field `param`, if texts have together far more than so many tokens.

    They are encoded part by part, and no further than that shows.
    """
    size, found = _USUAL_CHARACTERS * tokens + 4096, 0
    if sum(map(len, texts)) <= size:
        return
    for text in texts:
        for start in range(0, len(text), size):
            found += len(encode(text[start : start + size]))
            if found > _SURELY * tokens:
                told = f"{param}: the text has far more than the {tokens} tokens of the model's context; shorten it"
                raise ApiError(400, told, param=param, code="context_length_exceeded")


def check_total(shared: str, texts: Sequence[str], param: str) -> None:
    """Raise ApiError 400, which names the field `param`, if `shared` before each of the texts makes too much text."""
    total = len(shared) * len(texts) + sum(map(len, texts))
    if total > MAX_BODY:
        raise bad_field(param, f"{total} characters with what goes before each; expected at most {MAX_BODY}")
