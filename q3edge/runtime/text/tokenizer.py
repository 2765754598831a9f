"""`Tokenizer`: text to token ids and back, such that text written by people never becomes a control token.

Distinguishes markup (the template's own `<|im_start|>`, `<think>`, ...) from text that merely spells it, and decodes
piece by piece. The chat template decides the markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers.decoders import ByteLevel

from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.errors import InputError

_PRIVATE_USE = range(0xE000, 0xF900)


class Tokenizer:
    """Byte-level BPE tokenizer of an artifact folder.

    Two encoders share one vocabulary: `_full` recognises added tokens, `_plain` does not know them and so cannot
    produce their ids.
    """

    def __init__(self, full: tokenizers.Tokenizer, source: str, vocab_size: int) -> None:
        """Check `full` for a model whose embedding has `vocab_size` rows; `source` names it in errors.

        InputError: too large for the model, not byte-level, or with added tokens that could not be kept apart.
        """
        self._full = full
        self._plain = tokenizers.Tokenizer(full.model)
        self._plain.normalizer, self._plain.pre_tokenizer = full.normalizer, full.pre_tokenizer
        added = full.get_added_tokens_decoder()
        self.added_ids = {token.content: index for index, token in added.items()}
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self._special = _any_of(token.content for token in added.values() if token.special)
        self._added = _any_of(self.added_ids)
        self._check(source, vocab_size)

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> Tokenizer:
        """Read folder/tokenizer.json; InputError: missing, broken, too large for the model, not byte-level."""
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise InputError(f"{path}: not found; export a checkpoint that has its tokenizer.json beside it")
        try:
            full = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise InputError(f"{path}: not a tokenizer ({error}); download it again") from None
        return cls(full, str(path), vocab_size)

    def encode_text(self, text: str) -> list[int]:
        """Encode plain text: a spelled-out `<|im_end|>` stays those characters."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_markup(self, text: str) -> list[int]:
        """Encode a whole model input in which `<|im_end|>` is the control token; with BOS if the tokenizer adds one."""
        ids: list[int] = self._full.encode(text, add_special_tokens=True).ids
        return ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Encode rendered markup: added tokens are recognised unless a `mark` breaks them; the marks are removed."""
        ids: list[int] = []
        position = 0
        for match in self._added.finditer(text):
            ids += self.encode_text(text[position : match.start()].replace(mark, ""))
            ids.append(self.added_ids[match[0]])
            position = match.end()
        return ids + self.encode_text(text[position:].replace(mark, ""))

    def mark(self, text: str, mark: str, *, special_only: bool = False) -> str:
        """Break every added (or only every special) token that `text` spells with `mark`.

        A token cut off by either end of `text`, which the template's own text could complete, is broken too.
        """
        pattern = self._special if special_only else self._added
        tokens = [token for token in self.added_ids if pattern.fullmatch(token)]
        breaks = {match.start() + 1 for match in re.finditer(f"(?={pattern.pattern})", text)}
        if any(text.startswith(token[cut:]) for token in tokens for cut in range(1, len(token))):
            breaks.add(0)
        longest = max(map(len, tokens), default=0)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(token.startswith(text[start:]) for token in tokens):
                breaks.add(start + 1)
        ordered = sorted(breaks)
        return mark.join(text[start:end] for start, end in zip([0, *ordered], [*ordered, len(text)]))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids` to text without special tokens; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._full.decode(list(ids), skip_special_tokens=True)
        return text

    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens by their text, added tokens included."""
        vocabulary: dict[str, int] = self._full.get_vocab(with_added_tokens=True)
        return vocabulary

    def stream(self) -> StreamDecoder:
        """Create a decoder that takes one token at a time."""
        return StreamDecoder(self)

    def _check(self, source: str, vocab_size: int) -> None:
        size = max(self._full.get_vocab().values(), default=-1) + 1
        if size > vocab_size:
            raise InputError(
                f"{source}: {size} tokens, but the model's embedding has {vocab_size} rows (vocab_size); "
                "use the tokenizer that belongs to the model"
            )
        if not isinstance(self._full.decoder, ByteLevel):
            raise InputError(f"{source}: decoder is {self._full.decoder}; expected ByteLevel, as in Qwen3's tokenizer")
        for index, token in self._full.get_added_tokens_decoder().items():
            if token.lstrip or token.rstrip or token.single_word or len(token.content) < 2:
                raise InputError(
                    f"{source}: added token {token.content!r} is one character or has lstrip, rstrip or single_word; "
                    "expected tokens such as Qwen3's"
                )
            if token.special and index in self.encode_text(token.content):
                raise InputError(f"{source}: plain text can produce the special token {token.content!r}; refused")


class StreamDecoder:
    """Decoder of tokens that arrive one by one; the pieces join to `decode` of all of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Take one token; returns the text it completes, empty while the last character lacks bytes."""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if text.endswith("\ufffd"):  # an unfinished character, or the real U+FFFD, which can wait
            return ""
        self._pending.clear()
        return text

    def finish(self) -> str:
        """Return the remaining text after the last token."""
        text = self._tokenizer.decode(self._pending)
        self._pending.clear()
        return text


def unused_character(texts: Iterable[str]) -> str:
    """Private-use character that occurs in none of `texts`, so the mark cannot be forged."""
    used = set().union(*texts)
    return next(character for code in _PRIVATE_USE if (character := chr(code)) not in used)


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Pattern that matches any of `tokens`, the longest first, as the tokenizers library does."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(?:" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "(?!)")
