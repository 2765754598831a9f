"""Child process that tries out grammars, which are untrusted. Run as a script, never imported.

A grammar of a few kilobytes can make the library compute for hours, and one of a hundred overflow its stack, which ends
the process. So each is compiled here first, for a vocabulary of the 256 bytes, with half the stack that a thread has
elsewhere; the parent (`grammars`) keeps the deadline. A request is {"grammar", "limits"}, answered by {"error"}, empty
where there is none.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

_MEMORY_LIMIT = 2**30
_STACK = 512 * 2**10  # bytes; threads have 1 MiB or more on Windows, 8 on Linux, 16 on macOS


class _Bytes:
    """Tokenizer whose tokens are the bytes, and an end token."""

    tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]  # noqa: RUF012
    eos_token_id, bos_token_id = 256, None
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def main() -> None:
    """Serve requests from stdin until it closes."""
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

    from q3edge.machine.worker_script import serve

    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()))

    def compile_grammar(request: dict[str, Any], found: list[str]) -> None:
        limits = LLParserLimits(**request["limits"])
        matcher = LLMatcher(tokenizer, request["grammar"], log_level=0, limits=limits)
        matcher.compute_bitmask()
        found.append(matcher.get_error())

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        found: list[str] = []
        thread = threading.Thread(target=compile_grammar, args=(request, found))
        thread.start()
        thread.join()
        return {"error": found[0] if found else "the library fails"}

    threading.stack_size(_STACK)
    serve(answer, memory=_MEMORY_LIMIT)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends an answer, not the conversation
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    main()
