"""`Constraint`: lets only those tokens come that an answer's format allows, and leaves thinking before it free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from q3edge.runtime.text.thinking import ThinkingTokens

_NEVER = np.float32(-np.inf)
_MOST_NEWLINES = 2  # tokens of layout between the thinking and the answer


class Matcher(Protocol):
    """State of a text that has to match a format, moved on token by token.

    whole: the text may end here. ended: it must, as nothing can follow.
    """

    @property
    def whole(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    def allowed(self) -> NDArray[np.bool_]:
        """Tell for each token id, bool [V], whether it may follow. UsageError: the format is too complex."""

    def push(self, token: int) -> None:
        """Take a token. UsageError: it must not follow, or the format is too complex."""


@dataclass(frozen=True, slots=True)
class Openings:
    """How an answer may begin before its format holds.

    thinking: ids of `<think>` and `</think>`, None where the answer does not think. opened: the prompt has opened the
    thinking. newlines: tokens of line ends alone, layout behind the thinking. freeing: tokens that begin something
    else, such as a call of a tool, after which everything is free.
    """

    thinking: tuple[int, int] | None = None
    opened: bool = False
    newlines: frozenset[int] = frozenset()
    freeing: frozenset[int] = frozenset()


class Constraint:
    """Constraint of one answer, which learns of each of its tokens by `push`, in their order."""

    def __init__(self, matcher: Matcher, stops: Sequence[int], openings: Openings | None = None) -> None:
        """Start at the answer's beginning. `stops`: tokens that end it; they come only where the text is whole."""
        openings = openings or Openings()
        self._matcher, self._stops, self._newlines = matcher, frozenset(stops), openings.newlines
        self._thinking, self._freeing = openings.thinking, openings.freeing
        self._thinks = openings.opened and openings.thinking is not None
        self._first = not self._thinks  # no token has come, so that the answer may open its thinking
        self._layout = 0  # tokens of layout that may still come
        self._begun = False  # a token of the answer has come
        self._free = False

    @property
    def complete(self) -> bool:
        """Whether the answer has to end here."""
        return not self._thinks and not self._free and self._matcher.ended

    @property
    def kept(self) -> bool:
        """Whether the answer may end here; while it thinks, no answer has begun that could be wrong."""
        return self._thinks or self._free or self._matcher.whole

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Change scores float32 [V]: -inf for tokens that must not come. Errors are those of `Matcher.allowed`."""
        if self._thinks or self._free:
            return scores
        allowed = self._matcher.allowed()
        others = set(self._stops) if self._matcher.whole else set()
        if self._first and self._thinking is not None:
            others.add(self._thinking[0])
        if not self._begun:
            others |= self._freeing
        if self._layout:
            others |= self._newlines
        allowed[list(others)] = True
        return np.where(allowed, scores, _NEVER)

    def push(self, token: int) -> None:
        """Take a token of the answer, chosen or forced. Errors are those of `Matcher.push`."""
        if self._free or token in self._stops:
            return
        first, self._first = self._first, False
        if self._thinks:
            if self._thinking is not None and token == self._thinking[1]:
                self._thinks, self._layout = False, _MOST_NEWLINES
        elif first and self._thinking is not None and token == self._thinking[0]:
            self._thinks = True
        elif self._layout and token in self._newlines:
            self._layout -= 1
        elif not self._begun and token in self._freeing:
            self._free = True
        else:
            self._layout, self._begun = 0, True
            self._matcher.push(token)


def answer_openings(
    thinking: ThinkingTokens | None,
    prompt_ids: Sequence[int],
    *,
    newlines: frozenset[int],
    hybrid: bool,
    freeing: frozenset[int] = frozenset(),
) -> Openings:
    """Openings of an answer to a conversation.

    hybrid: the template switches the thinking, so that the answer may open it where the prompt has not; other models
    think where their prompt opens it.
    """
    if thinking is None:
        return Openings(freeing=freeing)
    begun = thinking.begun(prompt_ids)
    thinks = begun or (hybrid and begun is None)
    return Openings((thinking.start, thinking.end) if thinks else None, bool(begun), newlines, freeing)
