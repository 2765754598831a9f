"""`Grammars`: turns answer formats into matchers over one model's tokens, by llguidance, the extra `structured`.

A format is untrusted. Its size is bounded, then a child process compiles it (`grammar_worker`), so that what computes
for ever or overflows a stack ends there; which formats have passed is remembered, and no compiled grammar is. The
library's own limits bound the work for each token after that.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import ResourceError, UsageError
from q3edge.machine.extras import install_line
from q3edge.machine.worker_process import Worker, WorkerDiedError
from q3edge.plain_line import plain_line
from q3edge.runtime.generation.answer_format import JSON_OPTIONS, AnswerFormat
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.runtime.text.tool_calls import CALL_END, CALL_START

if TYPE_CHECKING:
    import llguidance

COMPILE_SECONDS = 2.0
# A lexer state takes 1 to 2 kB. The other limits are the library's own.
_LIMITS: dict[str, Any] = {"max_lexer_states": 50_000, "verbose_errors": False}
_REMEMBERED = 1024  # formats of which is known whether they are fit
_WORKER = Path(__file__).with_name("grammar_worker.py")
_LONGEST_REASON = 200  # characters
_NOTHING_FITS = ("NoExtension", "NoExtensionBias")  # the library's words where no token can follow


class Grammars:
    """Formats for the tokens of one model. Thread-safe; the library's tables are made when first needed."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """Prepare for a model with `vocab_size` ids."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._lock = threading.Lock()
        self._library: llguidance.LLTokenizer | None = None
        self._newlines: frozenset[int] = frozenset()
        self._worker: Worker | None = None
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()  # why a format is unfit, empty if it is fit

    def matcher(self, answer_format: AnswerFormat) -> TokenMatcher:
        """Start to match a format.

        UsageError, which names the setting: it is no valid format, has a keyword that is not supported, or is too
        large or too complex. ResourceError: llguidance is not installed.
        """
        library = self._tables()
        grammar = _grammar(answer_format)
        if reason := self._verdict(grammar):
            raise UsageError(f"{answer_format.kind}: {plain_line(reason)}; change it")
        if answer_format.kind == "tools":
            grammar = _grammar(answer_format, self._tokenizer.added_ids)
        return TokenMatcher(library, grammar, answer_format.kind, self._vocab_size)

    def newlines(self) -> frozenset[int]:
        """Ids of the tokens that are line ends alone. ResourceError: llguidance is not installed."""
        self._tables()
        return self._newlines

    def close(self) -> None:
        """End the child process; a later `matcher` starts another."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()

    def _tables(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._library is None:
                tokens = _Tokens(self._tokenizer, self._vocab_size)
                self._newlines = frozenset(i for i, text in enumerate(tokens.tokens) if text and not text.strip(b"\n"))
                self._library = _library_tokenizer(tokens)
            self._worker = self._worker or Worker(_WORKER, "the process that compiles answer formats")
            return self._library

    def _verdict(self, grammar: str) -> str:
        key = hashlib.sha256(grammar.encode()).digest()
        with self._lock:
            if key in self._verdicts:
                self._verdicts.move_to_end(key)
                return self._verdicts[key]
            worker = self._worker
        assert worker is not None
        try:
            found = worker.ask({"grammar": grammar, "limits": _LIMITS}, COMPILE_SECONDS)
            reason = _short(str(found.get("error", "")))
        except WorkerDiedError as error:
            reason = f"compiling it {error}: it is too complex"
        with self._lock:
            self._verdicts[key] = reason
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)
        return reason


class TokenMatcher:
    """`Matcher` by llguidance."""

    def __init__(self, library: llguidance.LLTokenizer, grammar: str, kind: str, vocab_size: int) -> None:
        """Compile a grammar that has been tried out; `kind` names the setting in errors."""
        import llguidance

        self._kind, self._vocab_size = kind, vocab_size
        limits = llguidance.LLParserLimits(**_LIMITS)
        self._matcher = llguidance.LLMatcher(library, grammar, log_level=0, limits=limits)
        self._check()

    @property
    def whole(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    @property
    def ended(self) -> bool:
        """Whether the text has to end here."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Tell for each token id, bool [V], whether it may follow. UsageError: the format is too complex."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def push(self, token: int) -> None:
        """Take a token. UsageError: it must not follow, or the format is too complex."""
        if not self._matcher.consume_token(token):
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UsageError(f"{self._kind}: the answer cannot go on: {_short(self._matcher.get_error())}; change it")


def _grammar(answer_format: AnswerFormat, added_ids: Mapping[str, int] = MappingProxyType({})) -> str:
    """Grammar of a format. added_ids: tokens that tags of calls are, which are else spelled out."""
    from llguidance import LLMatcher

    if answer_format.kind == "schema":
        try:
            return LLMatcher.grammar_from_json_schema(answer_format.text, overrides=JSON_OPTIONS)
        except ValueError as error:
            raise UsageError(f"schema: {_short(str(error))}; change it") from None
    if answer_format.kind == "regex":
        return LLMatcher.grammar_from_regex(answer_format.text)
    text = answer_format.text
    if answer_format.kind == "tools":
        for rule, tag in (("open", CALL_START), ("close", CALL_END)):
            text += f"\n{rule}: " + (f"<[{added_ids[tag]}]>" if tag in added_ids else json.dumps(tag))
    return LLMatcher.grammar_from_lark(text)


def _short(error: str) -> str:
    """What is wrong in one line: without the place in the library's own text, a backtrace or a copy of the input."""
    lines = [line.strip() for line in error.splitlines() if line.strip() and not line.startswith("<")]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    reason = (reason or (lines[0] if lines else "")).replace("Unimplemented keys", "keywords that are not supported")
    return "no text fits it" if reason in _NOTHING_FITS else reason[:_LONGEST_REASON]


def _library_tokenizer(tokens: _Tokens) -> llguidance.LLTokenizer:
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ImportError:
        raise ResourceError(f"answer formats need the package llguidance: {install_line('structured')}") from None
    return LLTokenizer(TokenizerWrapper(tokens))


class _Tokens:
    """What llguidance asks of a tokenizer: control tokens stand for no text, and an id beyond the model's ends one."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        found = tokenizer.token_bytes()
        self.tokens = [*(found.get(i, b"") for i in range(vocab_size)), b"<end>"]
        self.eos_token_id = vocab_size
        self.special_token_ids = [*tokenizer.control.ids, vocab_size]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode_text(text if isinstance(text, str) else text.decode())
