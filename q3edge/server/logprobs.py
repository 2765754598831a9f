"""Log probabilities of tokens in the two forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.runtime.text.tokenizer import Tokenizer


class TokenTexts:
    """Texts of single tokens, which need not be whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Find them once for a tokenizer, which takes some tenths of a second."""
        self._bytes = tokenizer.token_bytes()

    def chat(self, entries: Iterable[TokenLogprobs | None]) -> dict[str, Any]:
        """Form of chat completions. Tokens that were forced have no probability, and are left out."""
        return {"content": [self._entry(entry) for entry in entries if entry is not None], "refusal": None}

    def plain(
        self, token_ids: Sequence[int], entries: Sequence[TokenLogprobs | None], offset: int = 0
    ) -> dict[str, Any]:
        """Form of plain completions: lists with an element for each token; `offset`: of the first in the text."""
        texts = [self._name(token) for token in token_ids]
        offsets = [offset]
        for token in token_ids:
            offsets.append(offsets[-1] + len(self._text(token)))
        return {
            "tokens": texts,
            "token_logprobs": [None if entry is None else entry.logprob for entry in entries],
            "top_logprobs": [None if entry is None else self._likely(entry) for entry in entries],
            "text_offset": offsets[:-1],
        }

    def _entry(self, entry: TokenLogprobs) -> dict[str, Any]:
        return self._one(entry.token_id, entry.logprob) | {"top_logprobs": [self._one(*pair) for pair in entry.top]}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._text(token), "logprob": logprob, "bytes": list(self._bytes.get(token, b""))}

    def _likely(self, entry: TokenLogprobs) -> dict[str, float]:
        """Most likely tokens, and the one that came, by their names."""
        found: dict[str, float] = {}
        for token, logprob in (*entry.top, (entry.token_id, entry.logprob)):
            found.setdefault(self._name(token), logprob)
        return found

    def _text(self, token: int) -> str:
        return self._bytes.get(token, b"").decode("utf-8", "replace")

    def _name(self, token: int) -> str:
        """Text, or bytes of an incomplete character, so that no two tokens share a name."""
        data = self._bytes.get(token, b"")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
