"""`Model`: an artifact folder loaded for conversation. Combines decoder, tokenizer, template and settings."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, Self

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import Notice
from q3edge.errors import UsageError
from q3edge.runtime.answer_text import AnswerText
from q3edge.runtime.arguments import check_thinking, check_token_ids, folder_path
from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.generation.generate import new_tokens
from q3edge.runtime.generation.model_draft import ModelDraft, open_draft, relative_cost
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.prefix_cache import PrefixCache
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft
from q3edge.runtime.session.decoder import Decoder, note_slow_products
from q3edge.runtime.session.loader import note_edits, open_graph
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.message_checks import check_unicode, conversation
from q3edge.runtime.text.messages import Message, Tool
from q3edge.runtime.text.thinking import PlainText, Splitter, ThinkingSplitter
from q3edge.runtime.text.tokenizer import Tokenizer

Settings = GenerationSettings | Mapping[str, Any] | None  # None: the checkpoint's; a mapping replaces some of them


@dataclass(slots=True, eq=False)
class Model:
    """Loaded model. A context manager: leaving it closes the model, which then refuses every call (UsageError).

    Settings are given as GenerationSettings, as a dict, or by name (`temperature=0.7`); those not given are the
    checkpoint's. A name that does not exist or a value of the wrong type is a TypeError, one out of range a UsageError.

    The keys and values of the last text stay cached, so a prompt with the same beginning, as the next turn of a
    conversation has, is computed only from where it differs. Therefore a model serves one generation at a time: another
    thread waits for its end, and a second one in the same thread is a UsageError.
    """

    folder: Path
    decoder: Decoder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    template: ChatTemplate | None = field(repr=False)
    defaults: GenerationSettings
    cache: PrefixCache = field(repr=False)
    new_draft: Callable[[], Draft] | None = field(default=None, repr=False)  # for each generation; None: no drafting
    notices: tuple[Notice, ...] = ()  # what the checkpoint's files ask for in vain
    _busy: Lock = field(default_factory=Lock, init=False, repr=False)
    _owner: int | None = field(default=None, init=False, repr=False)  # thread that began the present generation
    _closed: bool = field(default=False, init=False, repr=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        speculate: bool = False,
        draft: str | Path | None = None,
    ) -> Self:
        """Check and load the folder `path`; decoder, tokenizer and template load in parallel. InputError: a bad file.

        `speculate`: draft tokens by prompt lookup, from what the text repeats; `draft`: by the smaller model in that
        folder instead. Either makes answers faster, and the same but for near
        ties. `threads`: None for one on each physical core.
        """
        folder = folder_path(path, "path")
        checked = open_graph(folder)
        note_edits(folder, checked.manifest, checked.edited)
        note_slow_products(checked.manifest)
        config = Qwen3Config.load(folder)
        template = ChatTemplate.load(folder)
        with ThreadPoolExecutor(1) as pool:
            tokenizer = pool.submit(Tokenizer.load, folder, config.vocab_size)
            decoder = Decoder(folder, threads=threads, checked=checked)
        new_draft: Callable[[], Draft] | None = NGramDraft if speculate else None
        if draft is not None:
            small = open_draft(folder_path(draft, "draft"), folder, decoder, tokenizer.result())
            small_cache, cost = PrefixCache(small), relative_cost(small.manifest, checked.manifest)
            new_draft = partial(ModelDraft, small_cache, cost)
        own = checkpoint_settings(folder, config, tokenizer.result().id_of)
        return cls(
            folder, decoder, tokenizer.result(), template, own.settings, PrefixCache(decoder), new_draft, own.notices
        )  # fmt: skip

    def generate(self, prompt: str | Sequence[int], settings: Settings = None, **named: Any) -> Completion:
        """Continue `prompt`, the model's whole input, to the end. Arguments and errors are those of `stream_raw`."""
        return self.stream_raw(prompt, settings, **named).finish()

    def chat(
        self,
        messages: str | Sequence[Message],
        settings: Settings = None,
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        **named: Any,
    ) -> Completion:
        """Answer a conversation, with the whole answer at once. Arguments and errors are those of `stream`."""
        return self.stream(messages, settings, thinking=thinking, tools=tools, **named).finish()

    def batch(
        self,
        conversations: Sequence[str | Sequence[Message]],
        settings: Settings = None,
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        **named: Any,
    ) -> list[Completion]:
        """Answer several conversations one after another; returns the answers in their order.

        All are checked before the first is answered. Other arguments and errors are those of `stream`; TypeError:
        `conversations` is no list.
        """
        if isinstance(conversations, str | Mapping) or not isinstance(conversations, Sequence):
            raise TypeError(f"conversations: give a list of conversations, not {type(conversations).__name__}")
        streams = [self.stream(each, settings, thinking=thinking, tools=tools, **named) for each in conversations]
        return [stream.finish() for stream in streams]

    def stream(
        self,
        messages: str | Sequence[Message],
        settings: Settings = None,
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        **named: Any,
    ) -> Stream:
        """Answer a conversation piece by piece; a str is one message of the user.

        `thinking` None: the template's default; `tools`: functions that the model may call, in the form of OpenAI's
        API. TypeError: neither a str nor messages. UsageError: a message is invalid or the template refuses it, or the
        prompt leaves no room in the context. InputError: no template, or a bad one.
        """
        prompt_ids = self.encode_chat(messages, thinking=thinking, tools=tools)
        notices: tuple[Notice, ...] = ()
        if thinking is not None and self.template is not None and not self.template.switches_thinking():
            notices = (Notice("no-thinking-switch", 1, "this model's chat template has no switch for its thinking"),)
        splitter = ThinkingSplitter(self.tokenizer, prompt_ids)
        return self._stream(prompt_ids, splitter, self.settings(settings, **named), notices)

    def stream_raw(self, prompt: str | Sequence[int], settings: Settings = None, **named: Any) -> Stream:
        """Continue `prompt`, the model's whole input, piece by piece: a text, or token ids.

        Control tokens spelled out in a text are control tokens. Everything is answer, nothing thinking. TypeError:
        neither text nor ids. UsageError: the prompt is empty, no valid Unicode, holds an id that the model does not
        have, or leaves no room in the context.
        """
        self._check_open()
        return self._stream(self._prompt_ids(prompt), PlainText(self.tokenizer), self.settings(settings, **named))

    def encode_chat(
        self,
        messages: str | Sequence[Message],
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Encode a conversation with the model's chat template; arguments and errors are those of `stream`.

        Control tokens spelled out in a message stay plain text. `add_generation_prompt`: end with the beginning of an
        assistant's message.
        """
        self._check_open()
        check_thinking(thinking)
        encoder = ChatEncoder(self.tokenizer, self.template, str(self.folder))
        return encoder.encode(
            conversation(messages), thinking=thinking, tools=tools, add_generation_prompt=add_generation_prompt
        )

    def settings(self, settings: Settings = None, /, **named: Any) -> GenerationSettings:
        """Generation settings that a call with these arguments uses: the checkpoint's, overridden by those given."""
        return self.defaults.override(settings, **named)

    def close(self) -> None:
        """End the chat template's process, and refuse every later call."""
        self._closed = True
        if self.template is not None:
            self.template.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the model of {self.folder} is closed; open it again")

    def _prompt_ids(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if isinstance(prompt, str):
            check_unicode(prompt, "the prompt")
            return self.tokenizer.encode_markup(prompt)
        check_token_ids(prompt, self.decoder.config.vocab_size)
        return prompt

    def _stream(
        self,
        prompt_ids: Sequence[int],
        splitter: Splitter,
        settings: GenerationSettings,
        notices: tuple[Notice, ...] = (),
    ) -> Stream:
        settings.check_ids(self.decoder.config.vocab_size)
        draft = self.new_draft() if self.new_draft else None
        request = Request(prompt_ids, settings, self.decoder.config.max_position_embeddings, draft=draft)
        return Stream(self._pieces(request, AnswerText(splitter, settings.stop_strings), notices))

    def _pieces(
        self, request: Request, text: AnswerText, notices: tuple[Notice, ...]
    ) -> Generator[Piece, None, Completion]:
        """Text of the request, computed on this model's cache, which is exclusive until the last piece."""
        self._check_open()
        self._begin()
        try:
            self._check_open()  # again: another thread may have closed it meanwhile
            for token in new_tokens(request, self.cache):
                for piece in text.push(token):
                    yield piece
                    self._check_open()
                if text.stopped:
                    break
            else:
                yield from text.finish()
            if text.stopped:
                request.stop_at(text.taken)
        finally:
            self._owner = None
            self._busy.release()
        ids, stats = tuple(request.new_ids), request.statistics
        notices = (*notices, *text.notices(stats.finish_reason))
        return Completion(text.cut(self.tokenizer.decode(ids)), text.thinking, text.answer, ids, stats, notices)

    def _begin(self) -> None:
        """Wait until no other thread generates. UsageError: this thread does, so that waiting would never end."""
        if not self._busy.acquire(blocking=False):
            if self._owner == get_ident():
                raise UsageError(
                    "the model is answering already, and gives one answer at a time; finish or close that stream, or "
                    "open the model again"
                )
            self._busy.acquire()
        self._owner = get_ident()
