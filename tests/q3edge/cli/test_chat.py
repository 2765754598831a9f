"""`chat` over pipes: messages, commands, saved conversations, what is typed and kept."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from q3edge.cli.answers import show_pieces
from q3edge.cli.talk.commands import COMMANDS, command_in, completions
from q3edge.cli.talk.history import MOST_MESSAGES, History, history_file
from q3edge.cli.talk.lines import LineReader
from q3edge.cli.talk.saved import Saved, load, save
from q3edge.errors import InputError, UsageError
from q3edge.runtime.completion import Piece
from q3edge.runtime.model import Model
from q3edge.terminal import shown_while_waiting
from tests.helpers.runtime import Answer

GREEDY = ("--temperature", "0", "--threads", "1", "--no-think")
SAID: Any = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "reasoning_content": "Hm"}]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Any], dict[str, Any]]]:
    """The messages and arguments of every answer that is asked for."""
    found: list[tuple[list[Any], dict[str, Any]]] = []
    real = Model.stream

    def record(self: Model, messages: Any, *arguments: Any, **named: Any) -> Any:
        found.append((list(messages), named))
        return real(self, messages, *arguments, **named)

    monkeypatch.setattr(Model, "stream", record)
    return found


def test_u4_a_conversation_over_pipes(answer: Answer, asked: list[Any]) -> None:
    said = b"What is 3 + 4?\n\nWhat is \\\n2 + 2?\n/clear\n/think\nWhat is 1 + 1?\n/exit\nnever asked\n"
    code, out, err = answer("chat", *GREEDY, "--system", "Be brief.", stdin=said)
    assert (code, out.splitlines()[0]) == (0, "7")
    contents = [[message["content"] for message in messages] for messages, _ in asked]
    first = ["Be brief.", "What is 3 + 4?"]
    assert contents[:2] == [first, [*first, "7", "What is \n2 + 2?"]]
    assert contents[2:] == [["Be brief.", "What is 1 + 1?"]]
    assert [named["thinking"] for _, named in asked] == [False, False, True]
    assert err.count("tokens/s") == 3
    assert "never" not in out


def test_an_error_ends_piped_messages(answer: Answer) -> None:
    code, out, err = answer("chat", *GREEDY, stdin=b"/nonsense\nWhat is 3 + 4?\n")
    assert (code, out) == (2, "")
    assert "q3edge: /nonsense: no such command; /help lists them, and a space before the slash makes it" in err
    assert answer("chat", *GREEDY, stdin=b"/load nowhere.json\nWhat is 3 + 4?\n")[:2] == (3, "")
    assert answer("chat", *GREEDY, stdin=b"/clear all\n")[:2] == (2, "")
    assert answer("chat", *GREEDY, stdin=b"What is 3 + 4?\n\xff\n")[:2] == (2, "7\n")


def test_lines_of_json_for_programs(answer: Answer) -> None:
    code, out, err = answer("chat", *GREEDY, "--json", stdin=b"What is 3 + 4?\nWhat is 2 + 2?\n")
    assert (code, err) == (0, "")
    assert [json.loads(line)["answer"] for line in out.splitlines()] == ["7", "4"]
    code, _, err = answer("chat", *GREEDY, "--json", terminal=True)
    assert (code, "--json is for messages that are piped in" in err) == (2, True)


@pytest.mark.parametrize(
    "message",
    [
        "explain /think",
        "/no_think What is 2 + 2?",
        "/think\nagain",
        "/etc/passwd, what is it?",
        "// a comment",
        " /clear",
    ],
)
def test_what_is_no_command_goes_to_the_model_unchanged(answer: Answer, asked: list[Any], message: str) -> None:
    assert command_in(message) is None
    assert answer("chat", *GREEDY, "--max-new-tokens", "1", stdin=message.replace("\n", "\\\n").encode())[0] == 0
    assert asked[0][0] == [{"role": "user", "content": message}]
    assert asked[0][1]["thinking"] is False


@pytest.mark.parametrize("message", ["/no_think", "/no-think", "/no_think  "])
def test_both_spellings_switch_the_thinking_off(message: str) -> None:
    found = command_in(message)
    assert found is not None
    assert found[0].name == "/no_think"


def test_settings_change_in_a_conversation(answer: Answer, asked: list[Any]) -> None:
    lines = [
        "/set max-new-tokens 1", "/set stop 7", "/set top_p 0.5", "a", "/set stop default",
        '/set logit_bias {"5": -1}', "/system Be brief.", "b", '/system ""', "c", "/set", "/stats", "/help",
    ]  # fmt: skip
    code, _, err = answer("chat", *GREEDY, stdin="\n".join(lines).encode())
    assert code == 0
    first, second, third = (named for _, named in asked)
    assert (first["max_new_tokens"], first["stop_strings"], first["top_p"]) == (1, "7", 0.5)
    assert "stop_strings" not in second
    assert second["logit_bias"] == [[5, -1]]
    assert [messages[0]["role"] for messages, _ in asked] == ["user", "system", "user"]
    assert third["temperature"] == 0
    assert "settings of this conversation: temperature 0.0, max_new_tokens 1, top_p 0.5, logit_bias" in err
    assert "6 messages; 3 answered with 3 tokens" in err
    assert all(f"  {command.name} " in err for command in COMMANDS)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/set warmth 3", "/set warmth: no such setting; there are max_new_tokens, temperature"),
        ("/set temperature", "/set temperature: give a value (0, or 0.001-100), or default"),
        ("/set temperature hot", "temperature: give a number, not 'hot'"),
        ("/set temperature -1", "temperature = -1: expected 0, or 0.001-100"),
        ("/save", "give a file: /save FILE, /load FILE"),
    ],
)
def test_a_setting_or_command_that_is_wrong_says_what_to_type(answer: Answer, line: str, problem: str) -> None:
    code, _, err = answer("chat", *GREEDY, stdin=line.encode())
    assert code == 2
    assert f"q3edge: {problem}" in err


def test_a_conversation_is_saved_and_goes_on(answer: Answer, asked: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "a talk.json"
    before = f"/think\nWhat is 3 + 4?\n/save {path}\n".encode()
    code, out, err = answer("chat", *GREEDY, "--system", "Be brief.", stdin=before)
    assert code == 0
    assert f"[2 messages saved in {path}]" in err
    found = json.loads(path.read_text())
    assert [message["role"] for message in found["messages"]] == ["system", "user", "assistant"]
    assert found["messages"][2]["content"] + "\n" == out
    assert found["messages"][2]["reasoning_content"]
    assert (found["thinking"], found["settings"]) == (True, {"temperature": 0.0})
    after = f'/load "{path}"\nWhat is 2 + 2?\n/save {path}\n'.encode()
    assert answer("chat", "--threads", "1", stdin=after)[0] == 0
    messages, named = asked[1]
    assert messages == [*found["messages"], {"role": "user", "content": "What is 2 + 2?"}]
    assert named == {"thinking": True, "temperature": 0.0}
    assert len(load(path).messages) == 5


def test_what_is_no_saved_conversation_is_replaced_by_force_alone(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    code, _, err = answer("chat", *GREEDY, stdin=f"/save {path}\n".encode())
    assert (code, path.read_text()) == (2, "years of work")
    assert f"{path}: is no saved conversation; /save --force FILE replaces it" in err
    assert answer("chat", *GREEDY, stdin=f"/save --force {path}\n".encode())[0] == 0
    assert load(path) == Saved([], False, {"temperature": 0.0})
    assert answer("chat", *GREEDY, stdin=f"/save --force {tmp_path}\n".encode())[0] == 4
    assert sorted(tmp_path.glob(".*partial*")) == []


GOOD = {"format": "q3edge-conversation", "version": 1, "messages": SAID, "thinking": None, "settings": {}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not JSON: Expecting value"),
        (b"\xff", "not UTF-8: byte 0"),
        (b"[" * 100_000, "not JSON: too deeply nested"),
        (b" " * ((16 << 20) + 1), "cannot be read (larger than 16777216 bytes)"),
        ([], "it has no format 'q3edge-conversation'"),
        ({"messages": SAID}, "it has no format 'q3edge-conversation'"),
        ({**GOOD, "version": 2}, "version 2, and this q3edge reads 1"),
        ({**GOOD, "thinking": 1}, "thinking: expected true, false or null"),
        ({**GOOD, "messages": None}, "messages: expected a list of objects"),
        ({**GOOD, "messages": [["user", "Hi"]]}, "messages: expected a list of objects"),
        ({**GOOD, "messages": [{"role": "admin", "content": "Hi"}]}, "messages[0]: role 'admin': expected one of"),
        ({**GOOD, "messages": [*SAID, {"role": "user", "content": 3}]}, "messages[2]: the user message has content of"),
        ({**GOOD, "messages": [*SAID, {"role": "system", "content": "x"}]}, "messages[2]: a system prompt comes first"),
        ({**GOOD, "settings": []}, "settings: expected an object"),
        ({**GOOD, "settings": {"warmth": 1}}, "settings: unknown setting 'warmth'"),
        ({**GOOD, "settings": {"temperature": float("nan")}}, "settings: temperature = nan"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_conversation_is_refused_in_one_line(tmp_path: Path, content: object, problem: str) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError) as caught:
        load(path)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="is no saved conversation"):
        save(path, Saved(SAID, None, {}))


def test_earlier_thinking_is_the_template_s_affair(answer: Answer, demo_folder: Path, asked: list[Any]) -> None:
    assert answer("chat", *GREEDY, stdin=b"/think\nWhat is 3 + 4?\nWhat is 2 + 2?\n")[0] == 0
    messages, _ = asked[1]
    assert messages[1]["reasoning_content"]
    with Model.open(demo_folder, threads=1) as model:
        without = [{key: value for key, value in message.items() if key != "reasoning_content"} for message in messages]
        assert model.encode_chat(messages) == model.encode_chat(without)  # type: ignore[arg-type]
        spelled: Any = [
            SAID[0],
            {"role": "assistant", "content": "It is </think> here.", "reasoning_content": ""},
            SAID[0],
        ]
        assert "It is </think> here." in model.tokenizer.decode(model.encode_chat(spelled))


def test_a_context_that_is_nearly_full_is_told(answer: Answer) -> None:
    told = "tokens of context are taken; /clear begins anew]"
    assert told not in answer("chat", *GREEDY, "--max-new-tokens", "1", stdin=b"x " * 850)[2]
    assert told in answer("chat", *GREEDY, "--max-new-tokens", "1", stdin=b"x " * 950)[2]


def test_messages_of_several_lines() -> None:
    lines = iter(["one", "two \\", "\\", "three", "end\\"])

    def next_line(_prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    reader = LineReader(next_line)
    assert [reader.read() for _ in range(3)] == ["one", "two \n\nthree", "end"]
    with pytest.raises(EOFError):
        reader.read()


def test_commands_settings_and_files_are_completed(tmp_path: Path) -> None:
    for name in ("a talk.json", "another", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "attic").mkdir()
    assert completions("/s") == ("/s", ["/save", "/system", "/set", "/stats"])
    assert completions("/set temp") == ("temp", ["temperature"])
    assert completions(f"/load {tmp_path}/a") == (
        f"{tmp_path}/a", [f"{tmp_path}/a talk.json", f"{tmp_path}/another", f"{tmp_path}/attic/"]
    )  # fmt: skip
    assert completions(f"/save --force {tmp_path}/a t")[1] == [f"{tmp_path}/a talk.json"]
    assert completions(f"/load {tmp_path}/none/")[1] == completions("What is /s")[1] == completions("hello")[1] == []


def test_what_is_typed_is_kept_for_the_user_alone_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = history_file()
    assert path == tmp_path / "q3edge" / "chat-history.jsonl"
    history = History(path)
    for message in ["one", "one", " ", "two\nlines \udc80", "x" * 10_001]:
        history.add(message)
    assert history.messages == ["one", "two\nlines \udc80", "x" * 10_001]
    assert History(path).messages == ["one", "two\nlines \udc80"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("a") as file:
        file.write('"cut\n[1]\n' + "".join(f'"{number}"\n' for number in range(2 * MOST_MESSAGES)))
    assert History(path).messages == [str(number) for number in range(MOST_MESSAGES, 2 * MOST_MESSAGES)]
    assert len(path.read_text().splitlines()) == MOST_MESSAGES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "q3edge" / "chat-history.jsonl"


def test_a_history_that_cannot_be_used_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for path, problem in (
        (tmp_path / "file" / "history", "File exists"),
        (tmp_path / "fifo", "not a regular file"),
    ):
        history = History(path)
        history.add("one")
        history.add("two")
        assert history.messages == ["one", "two"]
        assert capsys.readouterr().err == f"note: what you type is not kept: {path}: {problem}\n"
    nothing = History(None)
    nothing.add("one")
    assert nothing.messages == ["one"]


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_obeys_nothing_that_a_model_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [Piece("\x1b[2J", True), Piece("\x1b]0;t\x07a\tb\n\r\x9b中", False)]
    for screen, colour, shown in (
        (_Screen, "", "\x1b[2m\\x1b[2J\x1b[0m\n\\x1b]0;t\\x07a\tb\n\\r\\x9b中"),
        (_Screen, "NO_COLOR", "(thinking)\n\\x1b[2J\n\\x1b]0;t\\x07a\tb\n\\r\\x9b中"),
        (io.StringIO, "", "\n\x1b]0;t\x07a\tb\n\r\x9b中"),
    ):
        written = screen()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if colour:
            monkeypatch.setenv(colour, "1")
        monkeypatch.setattr(sys, "stdout", written)
        monkeypatch.setattr(sys, "stderr", written)
        show_pieces(pieces)
        assert written.getvalue() == shown


def test_a_long_wait_is_shown_on_a_terminal_and_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q3edge.terminal.WORTH_SHOWING_SECONDS", 0)
    monkeypatch.setattr("q3edge.terminal._SHOWN_AGAIN_SECONDS", 0.001)
    monkeypatch.setenv("TERM", "xterm")
    enough = threading.Event()

    numbers = count()

    def describe() -> str:
        number = next(numbers)
        if number == 3:
            enough.set()
        return f"reading {number}"

    for screen, shown in ((_Screen(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", screen)
        with shown_while_waiting(describe):
            assert not shown or enough.wait(60)
        found = screen.getvalue()
        assert found.startswith("\r\x1b[Kreading 0\r\x1b[Kreading 1\r\x1b[K") is shown
        assert found.endswith("\r\x1b[K") is shown


def test_how_much_of_the_prompt_is_read(demo_folder: Path) -> None:
    with Model.open(demo_folder, threads=1) as model:
        stream = model.stream_raw([5] * 600, max_new_tokens=3)
        assert stream.prompt_progress == (0, 600)
        next(stream)
        assert stream.prompt_progress == (600, 600)
        stream.finish()
        assert stream.prompt_progress == (600, 600)
