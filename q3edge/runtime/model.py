"""`Model`: an artifact folder ready for conversation. Puts decoder, tokenizer, template and settings together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from q3edge.architecture.config import Qwen3Config
from q3edge.errors import UsageError
from q3edge.runtime.generation.generate import Statistics, generate
from q3edge.runtime.generation.model_draft import ModelDraft, open_draft, relative_cost
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.prefix_cache import PrefixCache
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.loader import open_graph
from q3edge.runtime.text.chat_encoding import ChatEncoder, check_unicode
from q3edge.runtime.text.chat_template import ChatTemplate, Message
from q3edge.runtime.text.thinking import ThinkingSplitter
from q3edge.runtime.text.tokenizer import Tokenizer

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished generation: all its text, the two parts of it, its ids (no stop token), and what it took."""

    text: str
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    stats: Statistics

    def to_json(self) -> dict[str, Any]:
        """A JSON object: text, thinking, answer, token_ids, and the statistics' counts, seconds and rates."""
        rates = {
            "time_to_first_token": self.stats.time_to_first_token,
            "prefill_tokens_per_second": self.stats.prefill_tokens_per_second,
            "decode_tokens_per_second": self.stats.decode_tokens_per_second,
        }
        return asdict(self) | {"stats": asdict(self.stats) | rates}


@dataclass(frozen=True, slots=True)
class Model:
    """What `open` found in a folder. A context manager: leaving it ends the template's process.

    It keeps the keys and values of the last text, so a prompt that begins like it, as the next turn of a conversation
    does, is computed from where it differs. So it serves one generation at a time; UsageError for a second one.
    """

    folder: Path
    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: GenerationSettings
    cache: PrefixCache
    new_draft: Callable[[], Draft] | None = None  # a draft for each generation; None: no speculation
    _busy: Lock = field(default_factory=Lock, repr=False)

    @classmethod
    def open(
        cls, folder: Path, *, threads: int | None = None, speculate: bool = False, draft: Path | None = None
    ) -> Self:
        """Check and load everything; the three slow parts load side by side. InputError: any file is unfit.

        `speculate`: guess that answers repeat what stands before them; `draft`: let the smaller model in that folder
        guess instead. Either makes answers faster, not others.
        """
        checked = open_graph(folder)
        config = Qwen3Config.load(folder)
        settings = GenerationSettings.load(folder, config)
        template = ChatTemplate.load(folder)
        with ThreadPoolExecutor(1) as pool:
            tokenizer = pool.submit(Tokenizer.load, folder, config.vocab_size)
            decoder = Decoder(folder, threads=threads, checked=checked)
        new_draft: Callable[[], Draft] | None = NGramDraft if speculate else None
        if draft is not None:
            small = open_draft(draft, folder, decoder, tokenizer.result())
            small_cache, cost = PrefixCache(small), relative_cost(small.manifest, checked.manifest)
            new_draft = partial(ModelDraft, small_cache, cost)
        return cls(folder, decoder, tokenizer.result(), template, settings, PrefixCache(decoder), new_draft)

    def encode_chat(
        self, messages: Sequence[Message], *, thinking: bool | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation as the model was trained on it; see `ChatEncoder.encode`."""
        encoder = ChatEncoder(self.tokenizer, self.template, str(self.folder))
        return encoder.encode(messages, thinking=thinking, add_generation_prompt=add_generation_prompt)

    def settings(self, **flags: Any) -> GenerationSettings:
        """The checkpoint's generation settings with the flags that are not None in place of theirs."""
        return self.defaults.override(**flags)

    def chat(
        self,
        messages: Sequence[Message],
        settings: GenerationSettings | None = None,
        *,
        thinking: bool | None = None,
        on_text: OnText | None = None,
        on_thinking: OnText | None = None,
    ) -> Completion:
        """Answer a conversation. `settings` None: the checkpoint's; `thinking` None: the template's default.

        `on_text` gets the pieces of the answer as they are known, `on_thinking` those of the thinking before it.
        Errors: as `encode_chat` and `generate`.
        """
        prompt_ids = self.encode_chat(messages, thinking=thinking)
        splitter = ThinkingSplitter(self.tokenizer, prompt_ids)
        listeners = {False: on_text, True: on_thinking}
        parts: dict[bool, list[str]] = {False: [], True: []}

        def emit(text: str, thinks: bool) -> None:
            parts[thinks].append(text)
            listener = listeners[thinks]
            if text and listener is not None:
                listener(text)

        stats, token_ids = Statistics(), []
        with self._generation(prompt_ids, settings, stats) as tokens:
            for token in tokens:
                token_ids.append(token)
                emit(*splitter.push(token))
        emit(*splitter.finish())
        text = self.tokenizer.decode(token_ids)
        return Completion(text, "".join(parts[True]), "".join(parts[False]), tuple(token_ids), stats)

    def complete(
        self, prompt: str, settings: GenerationSettings | None = None, *, on_text: OnText | None = None
    ) -> Completion:
        """Continue `prompt`, the model's whole input: control tokens spelled out in it are control tokens.

        All of the text is answer. UsageError: the prompt is not valid Unicode; else as `generate`.
        """
        check_unicode(prompt, "the prompt")
        prompt_ids = self.tokenizer.encode_markup(prompt)
        stream, stats, token_ids = self.tokenizer.stream(), Statistics(), []

        def emit(text: str) -> None:
            if text and on_text is not None:
                on_text(text)

        with self._generation(prompt_ids, settings, stats) as tokens:
            for token in tokens:
                token_ids.append(token)
                emit(stream.push(token))
        emit(stream.finish())
        text = self.tokenizer.decode(token_ids)
        return Completion(text, "", text, tuple(token_ids), stats)

    @contextmanager
    def _generation(
        self, prompt_ids: Sequence[int], settings: GenerationSettings | None, stats: Statistics
    ) -> Iterator[Iterator[int]]:
        """New tokens on this model's cache; nobody else gets at it before the block is left."""
        if not self._busy.acquire(blocking=False):
            raise UsageError("the model is answering already, and gives one answer at a time; wait, or open it again")
        try:
            draft = self.new_draft() if self.new_draft else None
            yield generate(self.decoder, prompt_ids, settings or self.defaults, stats, cache=self.cache, draft=draft)
        finally:
            self._busy.release()

    def close(self) -> None:
        """End the chat template's process."""
        if self.template is not None:
            self.template.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
