"""Encoding of documents as token ids; decides the form of a dialogue: with thoughts, without, or with an empty thought.

The template and the runtime's encoder write the markup, so text that spells a control token stays text.
"""

from __future__ import annotations

from collections.abc import Sequence

from q3edge.calibration.data.documents import Document
from q3edge.errors import UsageError
from q3edge.gsm8k import RESULT_MARK
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message, Tool, content_text
from q3edge.runtime.text.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
_PROBE: Message = {"role": "user", "content": "."}


class DocumentEncoder:
    """Encoder of documents, one after another; every second dialogue without thoughts gets thinking switched off.

    An answer with an empty `reasoning_content` always has thinking switched off, and does not count for this.

    `refused` lists the dialogues that the template did not accept; `plain` counts those written without one.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.refused: list[Document] = []
        self.plain = 0
        self._tokenizer = tokenizer
        self._chat = ChatEncoder(tokenizer, template, "calibration data")
        self._dialogues = 0
        self._probe_ids: list[int] | None = None
        end = tokenizer.added_ids.get(END_OF_TEXT)
        self.separator = tokenizer.encode_text("\n\n") if end is None else [end]

    def encode(self, document: Document) -> list[int]:
        """Encode a document: its token ids without a separator; none where the template refuses the dialogue."""
        if not document.messages:
            return self._tokenizer.encode_text(document.text)
        if self._chat.template is None:
            self.plain += 1
            return self._tokenizer.encode_text(document.plain_text)
        try:
            return self._dialogue(document.messages, document.tools)
        except UsageError:
            self.refused.append(document)
            return []

    def _dialogue(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        if any(message.get("reasoning_content") for message in messages) or messages[-1]["role"] != "assistant":
            return self._finished(messages, tools)
        if "reasoning_content" in messages[-1]:  # empty: this answer was given with thinking switched off
            return self._answered(messages, tools, False)
        thinking = self._dialogues % 2 == 0
        self._dialogues += 1
        working = with_working_as_thoughts(messages) if thinking else None
        if working is not None:
            return self._finished(working, tools)
        return self._answered(messages, tools, None if thinking else False)

    def _finished(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        return self._chat.encode(messages, tools=tools or None, add_generation_prompt=False)

    def _answered(self, messages: Sequence[Message], tools: Sequence[Tool], thinking: bool | None) -> list[int]:
        """Token ids that the runtime holds once the model has answered: the prompt it was given, then the answer.

        The answer's ids are taken from the dialogue as an earlier one, where templates add nothing to it; with a
        template that adds something the dialogue is rendered whole.
        """
        earlier = self._finished([*messages, _PROBE], tools)
        probe = self._probe_ids = self._probe_ids or self._finished([_PROBE])
        opening = self._prompt(messages[:-1], tools, None)
        if earlier[-len(probe) :] != probe or earlier[: len(opening)] != opening:
            return self._finished(messages, tools)
        own = opening if thinking is None else self._prompt(messages[:-1], tools, thinking)
        return own + earlier[len(opening) : -len(probe)]

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Tool], thinking: bool | None) -> list[int]:
        return self._chat.encode(messages, thinking=thinking, tools=tools or None)


def with_working_as_thoughts(messages: Sequence[Message]) -> list[Message] | None:
    """Dialogue with the working of its last answer (`working #### result`) as thoughts; None without such working."""
    working, mark, result = content_text(messages[-1]).rpartition(RESULT_MARK)
    if not (mark and working.strip() and result.strip()):
        return None
    thoughtful: Message = {**messages[-1], "content": result.strip(), "reasoning_content": working}
    return [*messages[:-1], thoughtful]
