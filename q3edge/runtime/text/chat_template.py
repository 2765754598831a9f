"""`ChatTemplate`: renders a conversation with the checkpoint's own Jinja template, in a process that can be killed.

Starts the worker early, reuses it, and kills it at the deadline. `template_worker` defines the sandbox, and
`template_file` finds the template.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.runtime.text.messages import Message, Tool, template_message
from q3edge.runtime.text.template_file import read_template

RENDER_SECONDS = 2.0
_START_SECONDS = 60.0  # for a cold disk on a small board
_MAX_REPLY = 200 * 2**20  # bytes: 16 Mi characters, JSON-escaped
_WORKER = Path(__file__).with_name("template_worker.py")
_PROBE: tuple[Message, ...] = ({"role": "user", "content": "."},)
_KEPT_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH")  # without which some Pythons do not start


class ChatTemplate:
    """Chat template of one model. Thread-safe; `close` (or the end of the process) ends the worker."""

    def __init__(self, template: str, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """Start the worker; `source` names the template in errors."""
        self.template, self.source = template, source
        self._special_tokens = dict(special_tokens or {})
        self._lock = threading.Lock()
        self._worker: _Worker | None = _Worker()
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
        with self._lock:
            reply = self._ask(request)
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
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
            self._worker = None

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._worker = self._worker or _Worker()
        try:
            self._worker.wait_until_ready()
            return self._worker.exchange(request, RENDER_SECONDS)
        except _WorkerDiedError as error:
            self._worker.stop()
            self._worker = None
            raise InputError(
                f"{self.source}: the chat template {error}; it is broken or malicious, use --raw"
            ) from None
        except BaseException:  # Ctrl-C: a reply that nobody read would answer the next request
            self._worker.stop()
            self._worker = None
            raise


class _WorkerDiedError(Exception):
    """The worker was killed at its deadline, or ended early or sent invalid JSON."""


class _Worker:
    """Child process, with JSON lines to and from it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        )  # fmt: skip
        self._ready = False
        self.stop = weakref.finalize(self, _stop, self._process)

    def wait_until_ready(self) -> None:
        if self._ready:
            return
        try:
            self._ready = self.exchange({"path": sys.path}, _START_SECONDS).get("ready") is True
        except _WorkerDiedError:
            raise ResourceError(f"the chat template's process ({sys.executable}) did not start; use --raw") from None

    def exchange(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send one object and read one; the process is killed after `seconds`, which ends the read."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        try:
            timer.start()  # which a signal may end with the timer running
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            reply = json.loads(self._process.stdout.readline(_MAX_REPLY))
        except (OSError, ValueError):
            raise _WorkerDiedError(f"took more than {seconds:g} s" if late.is_set() else "ended its process") from None
        finally:
            timer.cancel()
        if not isinstance(reply, dict):
            raise _WorkerDiedError("answered nonsense")
        return reply


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was still to be written
                pipe.close()


def _printable(text: object) -> str:
    """One short line without control characters: untrusted text for a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:200].strip()
