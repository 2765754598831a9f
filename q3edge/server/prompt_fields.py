"""`PromptFields`: a prompt without a question of an answer: a text, or a conversation in the model's template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.runtime.model import Model
from q3edge.runtime.text.message_checks import check_unicode
from q3edge.runtime.text.messages import texts
from q3edge.server.computing import ModelFields
from q3edge.server.conversation import read_messages
from q3edge.server.errors import about, bad_field
from q3edge.server.limits import MAX_MESSAGES
from q3edge.server.text_lengths import check_length
from q3edge.server.thinking_fields import TemplateFields
from q3edge.server.tool_fields import ToolsFields

_COUNTED = 8  # times the context is the longest text whose tokens are told


class PromptFields(ModelFields, ToolsFields):
    """A text as it is, or messages, which the chat template makes one of."""

    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    chat_template_kwargs: TemplateFields | None = None

    missing: ClassVar[Mapping[str, str]] = {"content": "give prompt", "chat_template": "no request may bring one"}

    def ids(self, model: Model | EmbeddingModel, *, add_generation_prompt: bool) -> list[int]:
        """Token ids as the model reads them. ApiError 400 names what is invalid.

        add_generation_prompt: end messages with the beginning of an answer.
        """
        if (self.prompt is None) == (self.messages is None):
            raise bad_field("prompt", "give it or messages")
        context = model.context
        if self.prompt is not None:
            with about("prompt"):
                check_unicode(self.prompt, "the prompt")
                embeds = isinstance(model, EmbeddingModel)
                encode = model.tokenizer.encode_text if embeds else model.tokenizer.encode_markup
                check_length([self.prompt], encode, _COUNTED * context, "prompt")
                if isinstance(model, EmbeddingModel):
                    return model.tokenizer.encode_whole(self.prompt)
                return model.tokenizer.encode_markup(self.prompt)
        if isinstance(model, EmbeddingModel):
            raise bad_field("messages", "this model makes vectors of texts, and has no conversations; give prompt")
        messages, tools = read_messages(self.messages or ()), self.offered
        check_length([*texts(messages), *texts(tools)], model.tokenizer.encode_text, _COUNTED * context, "messages")
        asked = self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None
        with about("messages"):
            return model.encode_chat(messages, thinking=asked, tools=tools, add_generation_prompt=add_generation_prompt)
