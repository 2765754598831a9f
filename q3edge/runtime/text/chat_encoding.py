"""`ChatEncoder`: a conversation as the token ids that the model was trained on. Needs tokenizer and template only.

Owns which messages are taken, and that nothing written in one becomes a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from q3edge.errors import InputError, UsageError
from q3edge.runtime.text.chat_template import ChatTemplate, Message
from q3edge.runtime.text.tokenizer import Tokenizer, unused_character

ROLES = ("system", "user", "assistant", "tool")
_FIELDS = {"role", "content", "reasoning_content"}


@dataclass(frozen=True, slots=True)
class ChatEncoder:
    """Encodes with the model's own template; `source` names in errors what has none if that is None."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    source: str

    def encode(
        self, messages: Sequence[Message], *, thinking: bool | None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation; `thinking` None leaves the template's default.

        Only the template's own text yields control tokens: one spelled out in a message stays plain text. In an
        assistant's message, written by the model, added tokens that are not special (`<think>`) keep their meaning.
        UsageError: a message is not valid Unicode, has an unknown role or field, or the template refuses it.
        InputError: no template, or a bad one.
        """
        if self.template is None:
            raise InputError(f"{self.source}: has no chat template, so it cannot hold a conversation; use --raw")
        for message in messages:
            _check_message(message)
        mark = unused_character([self.template.template, *(text for message in messages for text in message.values())])
        marked = [self._marked(message, mark) for message in messages]
        rendered = self.template.render(marked, thinking=thinking, add_generation_prompt=add_generation_prompt)
        return self.tokenizer.encode_marked(rendered, mark)

    def _marked(self, message: Message, mark: str) -> Message:
        own = message["role"] == "assistant"
        return {
            name: text if name == "role" else self.tokenizer.mark(text, mark, special_only=own)
            for name, text in message.items()
        }


def check_unicode(text: str, what: str) -> None:
    """UsageError unless `text` can be written as UTF-8 (it holds no half character); `what` names it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid Unicode at character {error.start}; give UTF-8 text") from None


def _check_message(message: Message) -> None:
    if message.get("role") not in ROLES:
        raise UsageError(f"role {message.get('role')!r}: expected one of {', '.join(ROLES)}")
    if "content" not in message or not message.keys() <= _FIELDS:
        raise UsageError(f"message with {', '.join(message)}: expected role, content and perhaps reasoning_content")
    for text in message.values():
        check_unicode(text, f"the {message['role']} message")
