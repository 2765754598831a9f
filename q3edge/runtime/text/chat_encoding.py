"""`ChatEncoder`: a conversation as the token ids that the model was trained on. Needs tokenizer and template only.

Ensures that nothing written in a conversation becomes a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from q3edge.errors import InputError
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.control_tokens import unused_character
from q3edge.runtime.text.message_checks import check_message, check_tools
from q3edge.runtime.text.messages import Message, Tool, changed_texts, texts, with_texts
from q3edge.runtime.text.tokenizer import Tokenizer

_WRITTEN_BY_THE_MODEL = ("content", "reasoning_content")  # of an assistant's message


@dataclass(frozen=True, slots=True)
class ChatEncoder:
    """Encoder of conversations with the model's own template (None: it has none); `source` names it in errors."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    source: str

    def encode(
        self,
        messages: Sequence[Message],
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Encode a conversation as token ids; `thinking` None leaves the template's default, `tools` may be called.

        Only the template's own text yields control tokens: one spelled out in a message or a tool stays plain text. In
        an assistant's text, written by the model, control tokens that are not special (`<think>`) keep their meaning.
        UsageError: a message or tool is invalid (`message_checks`), or the template refuses the messages. InputError:
        no template, or a bad one. TypeError: `tools` is no list of dicts.
        """
        if self.template is None:
            raise InputError(f"{self.source}: has no chat template, so it cannot hold a conversation; use --raw")
        for message in messages:
            check_message(message)
        check_tools(tools or [])
        mark = unused_character([self.template.template, *texts([*messages, *(tools or [])])])
        rendered = self.template.render(
            [self._marked(message, mark) for message in messages],
            thinking=thinking,
            tools=changed_texts(tools, partial(self.tokenizer.control.mark, mark=mark)),
            add_generation_prompt=add_generation_prompt,
        )
        return self.tokenizer.encode_marked(rendered, mark)

    def _marked(self, message: Message, mark: str) -> Message:
        strict = partial(self.tokenizer.control.mark, mark=mark)
        own = partial(self.tokenizer.control.mark, mark=mark, special_only=True)
        said = _WRITTEN_BY_THE_MODEL if message["role"] == "assistant" else ()
        return with_texts(message, lambda name, text: (own if name in said else strict)(text))
