"""`Model`: an artifact folder loaded for conversation. Combines decoder, tokenizer, template and settings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import Notice
from q3edge.defaults import MAX_BATCH
from q3edge.errors import UsageError
from q3edge.runtime.answer_text import AnswerText
from q3edge.runtime.arguments import check_thinking, check_token_ids, folder_path
from q3edge.runtime.completion import Completion, Piece, Score, Stream
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.kv_memory import budget_tokens
from q3edge.runtime.engine.model_draft import ModelDraft, open_draft, relative_cost
from q3edge.runtime.engine.requests import Generation
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.answer_format import AnswerFormat
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.generation.constraint import Constraint, Openings, answer_openings
from q3edge.runtime.generation.grammars import Grammars
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.scoring import Scoring
from q3edge.runtime.generation.setting_table import MAX_LOGPROBS
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft
from q3edge.runtime.generation.tool_format import FREE, tool_format
from q3edge.runtime.prefixes import load_prefix, save_prefix
from q3edge.runtime.session.decoder import Decoder, note_slow_products
from q3edge.runtime.session.loader import note_edits, open_graph
from q3edge.runtime.text.answer_mode import will_think
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.message_checks import check_unicode, conversation
from q3edge.runtime.text.messages import Message, Tool
from q3edge.runtime.text.thinking import PlainText, ThinkingSplitter, ThinkingTokens
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.runtime.text.tool_calls import CALL_START

Settings = GenerationSettings | Mapping[str, Any] | None  # None: the checkpoint's; a mapping replaces some of them


@dataclass(slots=True, eq=False)
class Model:
    """Loaded model. A context manager: leaving it closes the model, which then refuses every call (UsageError).

    Settings are given as GenerationSettings, as a dict, or by name (`temperature=0.7`); those not given are the
    checkpoint's: `defaults` for plain text, `chat_defaults` for answers in a conversation, by whether they think. A
    name that does not exist or a value of the wrong type is a TypeError, one out of range a UsageError.

    Generations that run at the same time, from one thread or several, share forward passes: up to `max_batch`, more
    wait. The keys and values of the last text stay cached, so a prompt with the same beginning, as the next turn of a
    conversation has, is computed only from where it differs; so is one that begins as a text which is running.
    """

    folder: Path
    decoder: Decoder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    template: ChatTemplate | None = field(repr=False)
    defaults: GenerationSettings
    engine: Engine = field(repr=False)
    chat_defaults: Mapping[bool, GenerationSettings] = field(repr=False)
    context: int  # most tokens of a prompt and its answer
    new_draft: Callable[[], Draft] | None = field(default=None, repr=False)  # for each generation; None: no drafting
    notices: tuple[Notice, ...] = ()  # what the checkpoint's files ask for in vain
    _grammars: Grammars = field(init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._grammars = Grammars(self.tokenizer, self.decoder.config.vocab_size)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        speculate: bool = False,
        draft: str | Path | None = None,
        max_batch: int = MAX_BATCH,
        kv_memory: int | None = None,
        deterministic: bool = False,
        chat_template: str | Path | None = None,
        context: int | None = None,
        kept: int = 1,
        offload: bool | None = None,
        kernels: str | None = None,
    ) -> Self:
        """Check and load the folder `path`; decoder, tokenizer and template load in parallel. InputError: a bad file.

        `speculate`: draft tokens by prompt lookup, from what the text repeats; `draft`: by the smaller model in that
        folder instead. Either makes an answer that is computed alone faster, and the same but for near ties.
        `threads`: None for one on each physical core. `max_batch`: most generations that share passes. `kv_memory`:
        bytes for all keys and values; a generation that may need more is refused (None: half of the free memory, which
        a single one may exceed). `deterministic`: each generation computes as it would alone, in passes of its own.
        `chat_template`: a Jinja file to use in place of the folder's template. `context`: most tokens of a prompt and
        its answer (None: the model's own). `kept`: how many texts that have ended stay cached; of more than one, those
        that lose their place are stored, in up to half of the budget for keys and values. `offload`: a mixture's
        experts stay on the disk, from where onnxruntime maps what a token needs (None: where they would not fit in
        memory). `kernels`: "auto", "onnxruntime" or "q3edge", of this model and of the draft (None: $Q3EDGE_KERNELS,
        else auto: q3edge's where they are built for this CPU). UsageError: max_batch or kv_memory is not above 0, the
        context is more than the model's, there are no experts to offload, or such kernels cannot be had.
        """
        if max_batch < 1:
            raise UsageError(f"max_batch = {max_batch}: give at least 1")
        folder = folder_path(path, "path")
        checked = open_graph(folder)
        note_edits(folder, checked.manifest, checked.edited)
        note_slow_products(checked.manifest)
        config = Qwen3Config.load(folder)
        template_file = None if chat_template is None else folder_path(chat_template, "chat_template").expanduser()
        template = ChatTemplate.load(folder, template_file)
        with ThreadPoolExecutor(1) as pool:
            template_text = template.template if template else ""
            tokenizer = pool.submit(Tokenizer.load, folder, config.vocab_size, template_text)
            decoder = Decoder(folder, threads=threads, offload=offload, kernels=kernels, checked=checked)
        new_draft: Callable[[], Draft] | None = NGramDraft if speculate else None
        if draft is not None:
            small = open_draft(folder_path(draft, "draft"), folder, decoder, tokenizer.result(), kernels)
            small_slots, cost = Slots(small), relative_cost(small.manifest, checked.manifest)
            new_draft = partial(ModelDraft, small_slots, cost)
        own = checkpoint_settings(folder, config, tokenizer.result().id_of)
        longest = config.max_position_embeddings
        if context is not None and not 1 < context <= longest:
            raise UsageError(f"context = {context}: expected 2 to {longest}, the model's own")
        budget = budget_tokens(decoder.cache_spec, kv_memory)
        stored = (budget or 0) // 2 if kept > 1 else 0
        slots = Slots(decoder, max_batch, kept=kept, stored=stored, budget=budget)
        engine = Engine(slots, deterministic=deterministic, strict=kv_memory is not None)
        return cls(
            folder, decoder, tokenizer.result(), template, own.settings, engine, own.conversation, context or longest,
            new_draft, own.notices,
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
        n: int = 1,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        **named: Any,
    ) -> list[Completion]:
        """Answer several conversations at once, `max_batch` at a time; returns the answers in their order.

        `n`: answers to each, one behind the other in the result, as `streams` makes them. All are checked before the
        first is answered, and an error in one ends them all. Other arguments and errors are those of `stream`;
        TypeError: `conversations` is no list.
        """
        if isinstance(conversations, str | Mapping) or not isinstance(conversations, Sequence):
            raise TypeError(f"conversations: give a list of conversations, not {type(conversations).__name__}")
        streams = [
            stream
            for each in conversations
            for stream in self.streams(each, n, settings, thinking=thinking, tools=tools, **named)
        ]
        try:
            for stream in streams:
                stream.start(patient=True)
            return [stream.finish() for stream in streams]
        finally:
            for stream in streams:
                stream.close()

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
        API. Its calls are apart from the text, and an answer that has to follow a format may call tools instead.
        Named, too: `tool_choice`, "auto", "required" for an answer that is nothing but calls, or the name of the tool
        to call, with arguments by their schemas then; `parallel_tool_calls` False: the first call ends the answer.
        TypeError: neither a str nor messages. UsageError: a message is invalid or the template refuses it, the
        prompt leaves no room in the context, the answer's format is invalid or too complex, or there is a
        thinking_budget for a model that has no thinking, or no such tool. InputError: no template, or a bad one.
        ResourceError: a format is given, or a tool has to be called, and llguidance is not installed.
        """
        return self.streams(messages, 1, settings, thinking=thinking, tools=tools, **named)[0]

    def streams(
        self,
        messages: str | Sequence[Message],
        n: int,
        settings: Settings = None,
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        tool_choice: str = FREE,
        parallel_tool_calls: bool = True,
        **named: Any,
    ) -> list[Stream]:
        """Answer a conversation `n` times, at least once; other arguments and errors are those of `stream`.

        The prompt is computed once, but for `deterministic` models, while the answers are computed side by side. With a
        seed, the answers have it and those that follow: seed, seed + 1 and so on.
        """
        if n < 1:
            raise UsageError(f"n = {n}: give at least 1")
        prompt_ids = self.encode_chat(messages, thinking=thinking, tools=tools)
        assert self.template is not None  # else it could not be encoded
        notices: tuple[Notice, ...] = ()
        if thinking is not None and not self.template.switches_thinking():
            notices = (Notice("no-thinking-switch", 1, "this model's chat template has no switch for its thinking"),)
        thinks = will_think(self.tokenizer, self.template, prompt_ids, conversation(messages))
        chosen = self.settings(settings, thinks=thinks, **named)
        if thinks and chosen.thinking_budget == 0:
            chosen = self.settings(settings, thinks=False, **named)
        calls = tool_format(tools, tool_choice, parallel=parallel_tool_calls)
        answer_format = calls or chosen.answer_format
        openings = None
        if answer_format is not None:
            openings = self._openings(prompt_ids, may_call=bool(tools) and calls is None)

        def answer(index: int) -> Stream:
            own, splitter = chosen.for_answer(index), ThinkingSplitter(self.tokenizer, prompt_ids)
            text = AnswerText(
                splitter, own.stop_strings, has_tools=bool(tools), parallel_tool_calls=parallel_tool_calls
            )
            return self._stream(prompt_ids, text, own, answer_format, openings, notices)

        return [answer(index) for index in range(n)]

    def stream_raw(self, prompt: str | Sequence[int], settings: Settings = None, **named: Any) -> Stream:
        """Continue `prompt`, the model's whole input, piece by piece: a text, or token ids.

        Control tokens spelled out in a text are control tokens. Everything is answer, nothing thinking. TypeError:
        neither text nor ids. UsageError: the prompt is empty, no valid Unicode, holds an id that the model does not
        have, or leaves no room in the context.
        """
        self.check_open()
        chosen = self.settings(settings, **named)
        text = AnswerText(PlainText(self.tokenizer), chosen.stop_strings)
        return self._stream(self._prompt_ids(prompt), text, chosen, chosen.answer_format)

    def score(self, prompt: str | Sequence[int], *, top: int = 0) -> Score:
        """Read a text, as `stream_raw` takes it, and tell the log probability of each of its tokens but the first.

        top: how many of the most likely tokens to tell in each place, at most 20. UsageError: the text is empty, no
        valid Unicode, holds an id that the model does not have, or exceeds the context by more than its last token.
        """
        read = self.stream_score(prompt, top=top).finish()
        return Score(read.token_ids, read.logprobs, read.stats)

    def stream_score(self, prompt: str | Sequence[int], *, top: int = 0) -> Stream:
        """Read a text as `score` does, as a stream without pieces: its completion has the text's ids and logprobs."""
        self.check_open()
        if not 0 <= top <= MAX_LOGPROBS:
            raise UsageError(f"top = {top}: expected 0-{MAX_LOGPROBS}")
        ids = tuple(self._prompt_ids(prompt))
        if not ids:
            raise UsageError("the text is empty; give at least one character")
        scoring = Scoring(ids if len(ids) > 1 else ids * 2, self.context, top=top)  # the last one is not read

        def begin(patient: bool, on_news: Callable[[], None] | None) -> Generation:
            self.check_open()
            return self.engine.generate(scoring, patient=patient, on_news=on_news)

        def end() -> Completion:
            found = (None, *scoring.logprobs)[: len(ids)]
            return Completion("", "", "", ids, scoring.statistics, logprobs=found)

        return Stream(begin, deque(), end, self.check_open)

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
        self.check_open()
        check_thinking(thinking)
        encoder = ChatEncoder(self.tokenizer, self.template, str(self.folder))
        return encoder.encode(
            conversation(messages), thinking=thinking, tools=tools, add_generation_prompt=add_generation_prompt
        )

    def save_prefix(self, path: str | Path, prompt: str | Sequence[int] | None = None) -> int:
        """Write the keys and values of `prompt` to a file, for `load_prefix`; returns its number of tokens.

        prompt: a text or token ids, as for `stream_raw`; those of a conversation are from `encode_chat`. What is not
        cached is computed first. None: the last text, prompt and answer, as far as they went through the model. Other
        generations wait while it is written.
        UsageError: no text is cached, or as `stream_raw`. ResourceError: the file cannot be written.
        """
        self.check_open()
        ids = None if prompt is None else self._prompt_ids(prompt)
        return len(save_prefix(self.engine, self.decoder, folder_path(path, "path"), ids, self.context))

    def load_prefix(self, path: str | Path) -> int:
        """Restore what `save_prefix` wrote, in place of the last text; returns its number of tokens.

        A prompt that begins with its tokens is computed from where it differs. InputError: the file is missing,
        damaged, or of another model. UsageError: it exceeds kv_memory, or the model is `deterministic`.
        """
        self.check_open()
        return len(load_prefix(self.engine, self.decoder, folder_path(path, "path")))

    def settings(self, settings: Settings = None, /, *, thinks: bool | None = None, **named: Any) -> GenerationSettings:
        """Generation settings that a call with these arguments uses: the checkpoint's, overridden by those given.

        thinks: whether it is an answer in a conversation that thinks; None: it continues plain text.
        """
        own = self.defaults if thinks is None else self.chat_defaults[thinks]
        return own.override(settings, **named)

    def close(self) -> None:
        """End the processes of the chat template and of answer formats, and refuse every later call."""
        self._closed = True
        self._grammars.close()
        if self.template is not None:
            self.template.close()

    def __enter__(self) -> Self:
        self.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_open(self) -> None:
        """Raise UsageError if the model is closed."""
        if self._closed:
            raise UsageError(f"the model of {self.folder} is closed; open it again")

    def _prompt_ids(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if isinstance(prompt, str):
            check_unicode(prompt, "the prompt")
            return self.tokenizer.encode_markup(prompt)
        check_token_ids(prompt, self.decoder.config.vocab_size)
        return prompt

    def _openings(self, prompt_ids: Sequence[int], *, may_call: bool) -> Openings:
        """How an answer to this conversation may begin where it has to follow a format, or may call tools instead."""
        assert self.template is not None
        hybrid, newlines = self.template.switches_thinking(), self._grammars.newlines()
        thinking, call = ThinkingTokens.of(self.tokenizer), self.tokenizer.added_ids.get(CALL_START)
        freeing = frozenset[int]() if call is None or not may_call else frozenset({call})
        return answer_openings(thinking, prompt_ids, newlines=newlines, hybrid=hybrid, freeing=freeing)

    def _constraint(
        self, answer_format: AnswerFormat | None, settings: GenerationSettings, openings: Openings | None
    ) -> Constraint | None:
        """Constraint of an answer, None where it has no format. openings None: it holds from the first token."""
        if answer_format is None:
            return None
        matcher = self._grammars.matcher(answer_format)
        return Constraint(matcher, sorted(settings.stop_token_ids or ()), openings)

    def _stream(
        self,
        prompt_ids: Sequence[int],
        text: AnswerText,
        settings: GenerationSettings,
        answer_format: AnswerFormat | None,
        openings: Openings | None = None,
        notices: tuple[Notice, ...] = (),
    ) -> Stream:
        settings.check_ids(self.decoder.config.vocab_size)
        pieces = deque[Piece]()

        def watch(token: int) -> bool:
            pieces.extend(text.push(token))
            return text.stopped

        draft = self.new_draft() if self.new_draft else None
        thinking = None if settings.thinking_budget is None else ThinkingTokens.of(self.tokenizer)
        constraint = self._constraint(answer_format, settings, openings)
        request = Request(
            prompt_ids, settings, self.context, draft=draft, thinking=thinking, watch=watch, constraint=constraint
        )

        def begin(patient: bool, on_news: Callable[[], None] | None) -> Generation:
            self.check_open()
            return self.engine.generate(request, patient=patient, on_news=on_news)

        def end() -> Completion:
            if not text.stopped:
                pieces.extend(text.finish())
            ids, stats = tuple(request.new_ids), request.statistics
            told = [*notices, *text.notices(stats.finish_reason)]
            if stats.forced_tokens and settings.thinking_budget:
                tokens = "a token" if settings.thinking_budget == 1 else f"{settings.thinking_budget} tokens"
                detail = f"thinking stopped after {tokens}, its budget"
                told.append(Notice("thinking-stopped", 1, detail))
            if constraint is not None and not constraint.kept:
                detail = "the answer ended before it had the format asked for; allow more tokens (max_new_tokens)"
                told.append(Notice("format-unfinished", 1, detail))
            if request.repeats.notice is not None:
                told.append(request.repeats.notice)
            whole = text.cut(self.tokenizer.decode(ids))
            logprobs, calls = tuple(request.logprobs), tuple(text.calls)
            return Completion(whole, text.thinking, text.answer, ids, stats, tuple(told), logprobs, settings, calls)

        def prompt_progress() -> tuple[int, int]:
            return min(request.computed, len(prompt_ids)), len(prompt_ids)

        return Stream(begin, pieces, end, self.check_open, request.logprobs, prompt_progress)
