"""`Q3EdgeLM`: an ONNX artifact as a model of EleutherAI's lm-evaluation-harness, whose tasks then run on it.

    import lm_eval
    from q3edge.evaluation.lm_eval import Q3EdgeLM

    with Q3EdgeLM("qwen3-int4") as model:
        results = lm_eval.simple_evaluate(model=model, tasks=["gsm8k"], limit=100)

The harness's own command line takes it as `--model q3edge --model_args path=qwen3-int4`: by the entry point of the
group `lm_eval.models`, or through `q3edge.integrations.lm_eval`.

Nothing else in q3edge imports this module, so only its users need the harness: pip install 'q3edge[eval]'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from q3edge import progress
from q3edge.artifact import artifact_digest
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.machine.extras import install_line
from q3edge.runtime.answer_text import AnswerText
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.scoring import Scoring
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message, content_text
from q3edge.runtime.text.thinking import ThinkingSplitter

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise ResourceError(f"this needs the package lm-eval: {install_line('eval')}") from None

MAX_NEW_TOKENS = 256  # where a task sets none; the default of the harness's own models
_KNOWN_ARGUMENTS = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "seed"}


class Q3EdgeLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """Model of one artifact folder. Requests are answered one after the other; the tokens that one shares with the
    start of the one before are computed once.

    threads, kernels: as for `Model.open`.

    thinking: whether chat templates ask the model to think first (None: their default). However it comes to think, only
    what follows the thinking counts as generated; nothing, where the thinking has no end. batch_size and device are
    what the harness's command line gives to any model, a GPU also where nobody named one; it runs on the CPU.
    InputError: the folder is unfit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        kernels: str | None = None,
        thinking: bool | None = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1" or max_batch_size is not None:
            progress.note("note: --batch_size changes nothing: requests are answered one after the other")
        self.model = Model.open(Path(path), threads=threads, kernels=kernels)
        self._engine = Engine(Slots(self.model.decoder))
        self._thinking = thinking
        self._added = len(self.model.tokenizer.encode_markup(""))  # tokens that the tokenizer puts before every text

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-text token; it also stands before a text without context. InputError: there is none."""
        ids = [*self.model.decoder.config.eos_token_ids, *sorted(self.model.defaults.stop_token_ids or ())]
        if not ids:
            raise InputError(
                f"{self.model.folder}: names no end token; add eos_token_id to the checkpoint's config.json"
            )
        return ids[0]

    @property
    def max_length(self) -> int:
        """Context of the model in tokens."""
        return self.model.context

    @property
    def tokenizer_name(self) -> str:
        """Name that tells this artifact's prompts from others' in the harness's cache of requests."""
        return f"q3edge-{artifact_digest(self.model.folder)[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Chat template of the folder; None for False. InputError: it has none. UsageError: asked for one by name."""
        if chat_template is False:
            return None
        if isinstance(chat_template, str):
            raise UsageError(f"chat template {chat_template!r}: an artifact has one template; give True")
        if self.model.template is None:
            raise InputError(f"{self.model.folder}: has no chat template; run the task without apply_chat_template")
        return self.model.template.template

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """Render a conversation; without a generation prompt its last message is an answer that is yet to end."""
        self.chat_template(True)
        assert self.model.template is not None
        if add_generation_prompt:
            return self.model.template.render(chat_history, thinking=self._thinking)
        *earlier, last = chat_history
        return self.model.template.render(earlier, thinking=self._thinking) + content_text(last)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_ignored: Any) -> list[int]:
        """Encode to token ids; control tokens that are spelled out count as such: prompts come with the template's."""
        ids = self.model.tokenizer.encode_markup(string)
        return ids[self._added :] if add_special_tokens is False else ids

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Natural log probability of each whole text, in windows of the model's context."""
        found = []
        with progress.task("texts", len(requests)) as advance:
            for request in requests:
                (text,) = request.args
                windows = get_rolling_token_windows(
                    self.tok_encode(text, add_special_tokens=False), self.eot_token_id, self.max_length, 1
                )
                total = sum(self._score(*make_disjoint_window(window))[0] for window in windows)
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
                found.append(float(total))
                advance(1)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate a continuation of each context without its thinking, up to one of the task's stop sequences.

        UsageError: a generation argument that q3edge does not have.
        """
        found = []
        with progress.task("answers", len(requests)) as advance:
            for request in requests:
                context, arguments = request.args
                answer = self._generate(context, arguments)
                self.cache_hook.add_partial("generate_until", request.args, answer)
                found.append(answer)
                advance(1)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_ignored: Any
    ) -> list[tuple[float, bool]]:
        """(Natural log probability, whether greedy decoding would give it) of each continuation after its context."""
        found = []
        with progress.task("continuations", len(requests)) as advance:
            for texts, context, continuation in requests:
                score = self._score(context, continuation)
                self.cache_hook.add_partial("loglikelihood", texts, score)
                found.append(score)
                advance(1)
        return found

    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Score a continuation; a context that is too long loses its beginning, as with the harness's other models."""
        if len(continuation) > self.max_length:
            raise UsageError(f"a continuation of {len(continuation)} tokens exceeds the context of {self.max_length}")
        ids = [*context, *continuation][-(self.max_length + 1) :]
        scoring = Scoring(ids, self.max_length, first=len(ids) - len(continuation), top=1)
        deque(self._engine.generate(scoring), 0)
        greedy = all(entry.top[0][0] == entry.token_id for entry in scoring.logprobs)
        return sum(entry.logprob for entry in scoring.logprobs), greedy

    def _generate(self, context: str, arguments: Mapping[str, Any]) -> str:
        settings, until = self._settings(arguments)
        room = self.max_length - min(settings.max_new_tokens, self.max_length - 1)
        prompt = self.tok_encode(context)[-room:]
        text = AnswerText(ThinkingSplitter(self.model.tokenizer, prompt, keep_newlines=True), until)
        for token in generate(self.model.decoder, prompt, settings, engine=self._engine):
            deque(text.push(token), 0)
            if text.stopped:
                return text.answer
        deque(text.finish(), 0)
        return text.answer

    def _settings(self, arguments: Mapping[str, Any]) -> tuple[GenerationSettings, list[str]]:
        """Generation settings, greedy unless the task asks to sample; and the stop sequences."""
        if unknown := sorted(set(arguments) - _KNOWN_ARGUMENTS):
            raise UsageError(
                f"generation argument {unknown[0]}: expected some of {', '.join(sorted(_KNOWN_ARGUMENTS))}"
            )
        until = arguments.get("until") or []
        sampled = arguments.get("do_sample", False) and arguments.get("temperature", 1.0) > 0
        settings = GenerationSettings(
            max_new_tokens=arguments.get("max_gen_toks", MAX_NEW_TOKENS),
            stop_token_ids=self.model.defaults.stop_token_ids,
        )
        if sampled:
            names = ("temperature", "top_k", "top_p", "seed")
            settings = settings.override(
                **{"temperature": 1.0, "seed": 0} | {name: arguments[name] for name in names if name in arguments}
            )
        return settings, [until] if isinstance(until, str) else [stop for stop in until if stop]

    def close(self) -> None:
        """End the chat template's process."""
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
