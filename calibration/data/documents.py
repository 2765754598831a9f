"""`Document`: one text or dialogue on its way from a file to tokens, and the order that a seed gives to documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from q3edge.runtime.text.messages import Message, Tool, content_text


@dataclass(frozen=True, slots=True)
class Document:
    """One text or dialogue: either `text` or `messages`, which may call `tools`.

    `source` and `number` say of which file, and which record of it, this is the content or a passage. `area` and
    `language` are what the file says, later what tagging found; `is_code` where the file type says so.
    """

    source: int
    number: int
    text: str = ""
    messages: tuple[Message, ...] = ()
    is_code: bool = False
    area: str | None = None
    language: str | None = None
    tools: tuple[Tool, ...] = ()

    @property
    def plain_text(self) -> str:
        """The text, or thoughts, contents and calls of all messages, separated by blank lines."""
        if not self.messages:
            return self.text
        texts = (text for m in self.messages for text in (m.get("reasoning_content"), content_text(m), *_calls(m)))
        return "\n\n".join(filter(None, texts))


def seeded_rank(seed: int, content: str | bytes) -> bytes:
    """Sort key for a shuffle that depends only on the seed and the content (no path, no library's generator)."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(
        data, digest_size=16, salt=hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    ).digest()


def _calls(message: Message) -> Iterator[str]:
    """Name and arguments of each function that a message calls."""
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        yield f"{call['function']['name']} {written}"
