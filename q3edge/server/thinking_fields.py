"""`ThinkingFields`: the fields of a conversation that say whether its answer thinks, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from q3edge.runtime.completion import Stream
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message, Tool, texts
from q3edge.server.body import Body
from q3edge.server.errors import bad_field
from q3edge.server.sampling_fields import SamplingFields, Whole
from q3edge.server.text_lengths import check_length

Effort = Literal["none", "minimal", "low", "medium", "high"]
EFFORTS: Mapping[Effort, int | None] = {"none": 0, "minimal": 128, "low": 512, "medium": 2048, "high": None}


class TemplateFields(Body):
    """The one variable of a chat template that a request may set."""

    model_config = ConfigDict(extra="forbid")

    enable_thinking: bool | None = None


class ThinkingFields(SamplingFields):
    """Fields of a request whose answer may think."""

    chat_template_kwargs: TemplateFields | None = None
    thinking_budget: Whole | None = None

    @property
    def effort(self) -> Effort | None:
        """Effort that the request asks for; each endpoint has a field of its own for it."""
        raise NotImplementedError

    @property
    def budget(self) -> int | None:
        """Tokens of thinking; None: no limit. ApiError 400: there are two."""
        if self.effort is None:
            return self.thinking_budget
        if self.thinking_budget is not None:
            raise bad_field("thinking_budget", "give it or an effort of reasoning")
        return EFFORTS[self.effort]

    @property
    def thinking(self) -> bool | None:
        """Whether the answer thinks; None: the template's default."""
        asked = self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None
        return False if self.budget == 0 and asked is None else asked

    def answers(
        self,
        model: Model,
        messages: Sequence[Message],
        default_tokens: int | None,
        tools: Sequence[Tool] | None,
        calling: Mapping[str, Any],
        **settings: Any,
    ) -> list[Stream]:
        """Answer a conversation `n` times, thinking as the fields say. Errors are those of `Model.streams`.

        default_tokens: see `settings`; a budget of thinking comes on top. calling: how tools are called, by name.
        """
        said = [*texts([message.get("content") for message in messages]), *texts(tools)]  # templates may drop thinking
        check_length(said, model.tokenizer.encode_text, model.context, "messages")
        chosen = {**self.settings(model, default_tokens, self.budget or 0), **settings}
        switch = model.template is not None and model.template.switches_thinking()
        # Of a budget of 0 a template with a switch has made a closed thinking already.
        chosen["thinking_budget"] = None if self.budget == 0 and switch else self.budget
        thinking = self.thinking if switch else None
        return model.streams(messages, self.n, chosen, thinking=thinking, tools=tools, **calling)
