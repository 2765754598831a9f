"""`chat` in a pseudo-terminal: keys, history, Ctrl-C, terminals that can do less."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.terminal import READY, Terminal

UP, PASTE, END_OF_PASTE, CTRL_C, CTRL_D, BACKSPACE = "\x1b[A", "\x1b[200~", "\x1b[201~", "\x03", "\x04", "\x7f"
STATISTICS = "tokens/s"
# The fourth piece of an answer does not come before Ctrl-C.
HOLDS = """
import signal
from q3edge.runtime.completion import Stream
take, taken = Stream.__next__, []
def hold(stream):
    taken.append(stream)
    if len(taken) == 4:
        print("held", flush=True)
        signal.pause()
    return take(stream)
Stream.__next__ = hold
"""
MISSING = "import sys; sys.modules['prompt_toolkit'] = None"
Chat = Callable[..., Terminal]


@pytest.fixture
def chat(demo_folder: Path, tmp_path: Path) -> Chat:
    """Start a conversation in a terminal."""

    def start(*arguments: str, patch: str = "", **environment: str) -> Terminal:
        state = {"XDG_STATE_HOME": str(tmp_path / "state"), **environment}
        flags = ("--threads", "1", "--temperature", "0", *arguments)
        return Terminal("chat", str(demo_folder), *flags, environment=state, patch=patch)

    return start


def say(terminal: Terminal, keys: str, shown: str = STATISTICS) -> None:
    """Type a message; waits for what is shown of its answer, and for the next prompt."""
    terminal.type(keys)
    terminal.expect(shown)
    terminal.expect(READY)


def contents(path: Path) -> list[Any]:
    return [message["content"] for message in json.loads(path.read_text())["messages"]]


def test_lines_are_edited_recalled_completed_and_kept(chat: Chat, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with chat("--no-think") as terminal:
        terminal.expect("/help lists commands")
        terminal.expect(READY)
        say(terminal, f"What is 3 + 5?{BACKSPACE * 2}4?\r")
        say(terminal, f"{UP}\r")
        say(terminal, "What is \\\r2 + 2?\r")
        say(terminal, f"{PASTE}What is 2\r+ 2?{END_OF_PASTE}\r")
        say(terminal, "What is \x1b\r1 + 1?\r")
        say(terminal, "\u4e2d\u6587\u5b57" + BACKSPACE + "?\r")
        say(terminal, "/st\t\r", "tokens of context")
        say(terminal, f"never sent{CTRL_C}", "Ctrl-D or /exit")
        say(terminal, "/nonsense\r", "no such command")
        say(terminal, f"/sav\t {saved}\r", "saved in")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert terminal.edits_lines
    asked = ["What is 3 + 4?"] * 2 + ["What is \n2 + 2?", "What is 2\n+ 2?", "What is \n1 + 1?", "\u4e2d\u6587?"]
    assert contents(saved)[::2] == asked
    assert contents(saved)[1:5:2] == ["7", "7"]
    kept = tmp_path / "state" / "q3edge" / "chat-history.jsonl"
    assert [json.loads(line) for line in kept.read_text().splitlines()][:5] == asked[1:]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_u4_ctrl_c_ends_an_answer_and_not_the_conversation(chat: Chat, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with chat("--no-think", patch=HOLDS) as terminal:
        terminal.expect(READY)
        say(terminal, "/set min_new_tokens 40\r", "min_new_tokens 40")
        terminal.type("What is 3 + 4?\r")
        terminal.expect("held")
        terminal.type(CTRL_C * 3, at_prompt=False)
        terminal.expect("[stopped: what came of the answer stays in the conversation]")
        terminal.expect(READY)
        say(terminal, "/set min_new_tokens default\r", "temperature")
        say(terminal, "What is 2 + 2?\r")
        say(terminal, f"/save {saved}\r", "saved in")
        terminal.type("/exit\r")
        assert terminal.end() == 0
    found = contents(saved)
    assert found[0::2] == ["What is 3 + 4?", "What is 2 + 2?"]
    assert found[1].startswith("7")
    assert len(found) == 4


def test_an_answer_that_is_stopped_in_its_thinking_is_forgotten(chat: Chat, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with chat("--think", "--no-history", patch=HOLDS) as terminal:
        terminal.expect(READY)
        terminal.type("What is 3 + 4?\r")
        terminal.expect("\x1b[2m")  # dimmed
        terminal.expect("held")
        terminal.type(CTRL_C, at_prompt=False)
        terminal.expect("[stopped: the message is forgotten]")
        terminal.expect(READY)
        say(terminal, f"{UP}\r")  # recalled, as this conversation's own messages are
        say(terminal, f"/save {saved}\r", "saved in")
        assert not terminal.edits_lines
        terminal.signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert terminal.edits_lines
    assert contents(saved)[0::2] == ["What is 3 + 4?"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("environment", "patch", "note"),
    [
        ({"TERM": "dumb"}, "", ""),
        ({"TERM": "xterm", "NO_COLOR": "1"}, MISSING, "prompt_toolkit is missing"),
    ],
    ids=["dumb", "without prompt_toolkit"],
)  # fmt: skip
def test_less_of_a_terminal_can_edit_recall_and_complete_too(
    chat: Chat, tmp_path: Path, environment: dict[str, str], patch: str, note: str
) -> None:
    saved = tmp_path / "talk.json"
    with chat("--think", patch=patch, **environment) as terminal:
        assert note in terminal.expect("/help lists commands")
        for keys, shown in (
            (f"What is 3 + 5?{BACKSPACE * 2}4?\r", STATISTICS),
            ("\x10\r", STATISTICS),
            ("What is \\\r2 + 2?\r", STATISTICS),
            ("/st\t\r", "of context"),
            (f"never sent{CTRL_C}", "Ctrl-D or /exit"),
            (f"/save {saved}\r", "saved in"),
        ):
            terminal.expect("> ")
            terminal.type(keys)
            terminal.expect(shown)
        terminal.expect("> ")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert "(thinking)\r\n" in terminal.shown
        assert "\x1b[2m" not in terminal.shown
        assert environment["TERM"] != "dumb" or "\x1b" not in terminal.shown
    assert contents(saved)[0::2] == ["What is 3 + 4?", "What is 3 + 4?", "What is \n2 + 2?"]
    with chat("--think", **environment) as terminal:  # the next conversation
        terminal.expect("> " if environment["TERM"] == "dumb" else READY)
        terminal.type(("\x10" * 2 + "\r") if environment["TERM"] == "dumb" else UP * 2 + "\r")
        terminal.expect("of context")
        terminal.expect("> " if environment["TERM"] == "dumb" else READY)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
