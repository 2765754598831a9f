"""Whether an answer will think: by its prompt, the template's switch, and the switches that users write."""

from __future__ import annotations

import re
from collections.abc import Sequence

from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message, content_text
from q3edge.runtime.text.thinking import THINK_END, THINK_START, thinking_begun
from q3edge.runtime.text.tokenizer import Tokenizer

_SWITCH = re.compile(r"(?<!\S)/(no_)?think\b")  # Qwen3's own, in messages of system and user


def will_think(
    tokenizer: Tokenizer, template: ChatTemplate, prompt_ids: Sequence[int], messages: Sequence[Message]
) -> bool:
    """Predict whether the answer to `messages`, which the template made `prompt_ids`, begins with thinking.

    Where the prompt says nothing, a model whose template has a switch thinks, but for a last `/no_think` in the
    messages; one without, as Instruct-2507, does not.
    """
    if not {THINK_START, THINK_END} <= tokenizer.added_ids.keys():
        return False
    begun = thinking_begun(tokenizer, prompt_ids)
    return template.switches_thinking() and not _switched_off(messages) if begun is None else begun


def _switched_off(messages: Sequence[Message]) -> bool:
    for message in reversed(messages):
        if message["role"] in ("system", "user") and (found := _SWITCH.findall(content_text(message))):
            return bool(found[-1])
    return False
