"""`Tokenizer`: text to token ids and back, such that text written by people never becomes a control token.

Distinguishes markup (the template's own `<|im_start|>`, `<think>`, ...) from text that merely spells it
(`control_tokens`), and decodes piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from pathlib import Path

import tokenizers
from tokenizers.decoders import ByteLevel

from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.errors import InputError, unreadable
from q3edge.runtime.text.control_tokens import ControlTokens
from q3edge.runtime.text.template_file import read_template
from q3edge.storage.regular_files import read_regular

_LONG = 10_000  # characters, of some milliseconds


class Tokenizer:
    """Byte-level BPE tokenizer of an artifact folder.

    Two encoders share one vocabulary: `_full` recognises all added tokens, `_plain` all but control tokens, whose ids
    it therefore cannot produce.
    """

    def __init__(self, full: tokenizers.Tokenizer, source: str, vocab_size: int, template: str = "") -> None:
        """Check `full` for a model whose embedding has `vocab_size` rows; `source` names it in errors.

        template: the text of the chat template, whose own markup steers the model. Truncation and padding, which a
        training script may have left switched on, are switched off. InputError: too large for the model, not
        byte-level, or with control tokens that could not be kept apart.
        """
        self._source = source
        self._bytes: dict[int, bytes] | None = None  # of each token, once they were asked for
        with self._library():
            full.no_truncation()
            full.no_padding()
            self._full = full
            added = full.get_added_tokens_decoder()
            self.added_ids = {token.content: index for index, token in added.items()}
            self.special_ids = frozenset(index for index, token in added.items() if token.special)
            self.control = ControlTokens(added, template)
            self._plain = self._without_control(added)
            self._check(vocab_size)

    @classmethod
    def load(cls, folder: Path, vocab_size: int, template: str | None = None) -> Tokenizer:
        """Read folder/tokenizer.json; InputError: missing, broken, too large for the model, not byte-level.

        template: the text of the chat template that is used; None: the folder's.
        """
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise InputError(f"{path}: not found; export a checkpoint that has its tokenizer.json beside it")
        if template is None:
            found = read_template(folder)
            template = found.text if found else ""
        try:
            content = read_regular(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected a tokenizer") from None
        with _library_errors(str(path), "not a tokenizer"):
            full = tokenizers.Tokenizer.from_buffer(content)
        return cls(full, str(path), vocab_size, template)

    def encode_text(self, text: str) -> list[int]:
        """Encode plain text: words that were added are single ids, a spelled-out `<|im_end|>` stays those characters.

        InputError: the tokenizer fails on this text.
        """
        with self._library():
            ids: list[int] = _encoded(self._plain, text, special=False).ids
        return ids

    def encode_markup(self, text: str) -> list[int]:
        """Encode a whole model input in which `<|im_end|>` is the control token; with BOS if the tokenizer adds one.

        InputError: the tokenizer fails on this text.
        """
        with self._library():
            ids: list[int] = _encoded(self._full, text, special=True).ids
        return ids

    def encode_whole(self, text: str) -> list[int]:
        """Encode plain text as `encode_text`, with what the tokenizer itself adds, as an embedding model's end token.

        InputError: the tokenizer fails on this text.
        """
        with self._library():
            ids: list[int] = self._full.post_process(_encoded(self._plain, text, special=False)).ids
        return ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Encode rendered markup: control tokens are recognised unless a `mark` breaks them; the marks are removed."""
        ids: list[int] = []
        for piece, control in self.control.split(text, mark):
            ids += self.encode_text(piece)
            if control is not None:
                ids.append(control)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode `ids` to text without special tokens; bytes that are not UTF-8 become U+FFFD."""
        with self._library():
            text: str = self._full.decode(list(ids), skip_special_tokens=True)
        return text

    def id_of(self, token: str) -> int | None:
        """Id of the token with this text; None if there is none."""
        index: int | None = self._full.token_to_id(token)
        return index

    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens by their text, added tokens included."""
        vocabulary: dict[str, int] = self._full.get_vocab(with_added_tokens=True)
        return vocabulary

    def token_bytes(self) -> Mapping[int, bytes]:
        """What each token stands for in a text, which need not be whole characters; an added token for its name.

        Found once, which takes some tenths of a second.
        """
        if self._bytes is None:
            self._bytes = self._find_bytes()
        return self._bytes

    def _find_bytes(self) -> dict[int, bytes]:
        added, byte_of = set(self.added_ids.values()), _byte_of()
        found = {}
        for name, index in self.vocabulary().items():
            plain = index in added or not byte_of.keys() >= set(name)
            found[index] = name.encode() if plain else bytes(map(byte_of.__getitem__, name))
        return found

    def stream(self) -> StreamDecoder:
        """Create a decoder that takes one token at a time."""
        return StreamDecoder(self)

    def _library(self) -> AbstractContextManager[None]:
        return _library_errors(self._source, "the tokenizer fails")

    def _without_control(self, added: Mapping[int, tokenizers.AddedToken]) -> tokenizers.Tokenizer:
        """Tokenizer in which control tokens count as special, the others do not, and special ones stay text."""
        plain = tokenizers.Tokenizer(self._full.model)
        plain.normalizer, plain.pre_tokenizer = self._full.normalizer, self._full.pre_tokenizer
        in_order = [token for _, token in sorted(added.items())]
        for control, tokens in groupby(in_order, lambda token: token.content in self.control):
            (plain.add_special_tokens if control else plain.add_tokens)([_copy(token, control) for token in tokens])
        plain.encode_special_tokens = True
        return plain

    def _check(self, vocab_size: int) -> None:
        size = max(self._full.get_vocab().values(), default=-1) + 1
        if size > vocab_size:
            raise InputError(
                f"{self._source}: {size} tokens, but the model's embedding has {vocab_size} rows (vocab_size); "
                "use the tokenizer that belongs to the model"
            )
        if not isinstance(self._full.decoder, ByteLevel):
            raise InputError(
                f"{self._source}: decoder is {self._full.decoder}; expected ByteLevel, as in Qwen3's tokenizer"
            )
        for token, index in self.added_ids.items():
            if self._plain.token_to_id(token) != index:
                raise InputError(f"{self._source}: the added token {token!r} has another id than its place; refused")
            if index in self.special_ids and index in self.encode_text(token):
                raise InputError(f"{self._source}: plain text can produce the special token {token!r}; refused")


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


def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for: itself where it is printable, else a later one.

    As in GPT-2's encoder and the tokenizers library (`ByteLevel.alphabet`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _encoded(tokenizer: tokenizers.Tokenizer, text: str, *, special: bool) -> tokenizers.Encoding:
    """Encode a text. A long one does not stop Python's other threads, which `encode` does for all its time."""
    if len(text) < _LONG:
        return tokenizer.encode(text, add_special_tokens=special)
    return tokenizer.encode_batch_fast([text], add_special_tokens=special)[0]


def _copy(token: tokenizers.AddedToken, special: bool) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
        normalized=token.normalized, special=special,
    )  # fmt: skip


@contextmanager
def _library_errors(source: str, problem: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into an InputError: bare Exception, and panics, a BaseException."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        detail = " ".join(str(error).split())[:200]
        raise unreadable(f"{source}: {problem} ({detail}); download it again", error) from None
