"""`ChatTemplate`: renders a conversation with the checkpoint's own Jinja template, in a process that can be killed.

Starts the worker early, reuses it, and kills it at the deadline. `template_worker` defines the sandbox, and
`template_file` finds the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from q3edge.errors import InputError, UsageError
from q3edge.machine.worker_process import Worker, WorkerDiedError
from q3edge.runtime.text.messages import Message, Tool, template_message
from q3edge.runtime.text.template_file import read_template

RENDER_SECONDS = 2.0
_WORKER = Path(__file__).with_name("template_worker.py")
_PROBE: tuple[Message, ...] = ({"role": "user", "content": "."},)


class ChatTemplate:
    """Chat template of one model. Thread-safe; `close` (or the end of the process) ends the worker."""

    def __init__(self, template: str, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """Start the worker; `source` names the template in errors."""
        self.template, self.source = template, source
        self._special_tokens = dict(special_tokens or {})
        self._worker = Worker(_WORKER, "the chat template's process")
        self._switches_thinking: bool | None = None

    @classmethod
    def load(cls, folder: Path, other: Path | None = None) -> ChatTemplate | None:
        """Start the template that `read_template` finds, which see for arguments and errors; None without one."""
        found = read_template(folder, other)
        return None if found is None else cls(found.text, found.source, found.special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Render the model's input as text. `thinking` None leaves the template's default; `tools` may be called.

        InputError: the template is invalid, misbehaves or takes more than 2 s. UsageError: it refuses the messages.
        """
        variables = {**self._special_tokens, "tools": tools, "add_generation_prompt": add_generation_prompt}
        if thinking is not None:
            variables["enable_thinking"] = thinking
        request = {
            "template": self.template,
            "messages": [template_message(message) for message in messages],
            "variables": variables,
        }
        try:
            reply = self._worker.ask(request, RENDER_SECONDS)
        except WorkerDiedError as error:
            raise InputError(
                f"{self.source}: the chat template {error}; it is broken or malicious, use --raw"
            ) from None
        if isinstance(reply.get("text"), str):
            return str(reply["text"])
        if "raised" in reply:
            raise UsageError(f"{self.source}: the chat template refuses these messages: {_printable(reply['raised'])}")
        raise InputError(f"{self.source}: the chat template fails: {_printable(reply.get('error'))}; use --raw")

    def switches_thinking(self) -> bool:
        """Whether `thinking` changes what the template renders of a message; found once. False where it refuses it."""
        if self._switches_thinking is None:
            try:
                on, off = (self.render(_PROBE, thinking=thinking) for thinking in (True, False))
                self._switches_thinking = on != off
            except (UsageError, InputError):
                self._switches_thinking = False
        return self._switches_thinking

    def close(self) -> None:
        """End the worker; a later `render` starts another."""
        self._worker.stop()


def _printable(text: object) -> str:
    """One short line without control characters: untrusted text for a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:200].strip()
