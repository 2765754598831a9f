"""`ThinkingBudget`: counts the tokens of an answer's thinking, and says which tokens are forced when they are used up.

Qwen's recipe: where the budget ends before the thinking, a sentence that stops it is put into the text, and the answer
follows (Qwen's documentation, "Thinking Budget" in its quickstart; arXiv 2505.09388, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from q3edge.runtime.text.thinking import ThinkingTokens


class ThinkingBudget:
    """Budget of one answer, which learns of each token that the model chose by `push`, in their order.

    All tokens between `<think>` and `</think>` count, in every block of the answer together; those of the prompt and
    those that are forced do not.
    """

    def __init__(self, budget: int, tokens: ThinkingTokens, prompt_ids: Sequence[int]) -> None:
        """Start after a prompt, which may have opened the thinking itself; `budget` in tokens, 0 or more."""
        self._left, self._tokens = budget, tokens
        opened = tokens.opened(prompt_ids)  # how many tokens the prompt has in the open block
        self._thinking = opened is not None
        self._empty = True  # the open block has no token of the answer
        self.first: tuple[int, ...] = ()  # forced before the first token
        if opened is not None and budget == 0:
            self._thinking = False
            self.first = tokens.begun_block_end if opened else tokens.empty_block_end

    @property
    def room(self) -> int | None:
        """Number of tokens, above 0, that the model may still choose in the open block; None: it does not think."""
        return self._left if self._thinking else None

    def push(self, token: int) -> tuple[int, ...]:
        """Take a token that the model chose; returns those that are forced behind it, mostly none."""
        if not self._thinking:
            if token != self._tokens.start:
                return ()
            self._thinking = self._empty = True
        elif token == self._tokens.end:
            self._thinking = False
            return ()
        else:
            self._left -= 1
            self._empty = False
        if self._left:
            return ()
        self._thinking = False
        return self._tokens.empty_block_end if self._empty else self._tokens.early_stop
