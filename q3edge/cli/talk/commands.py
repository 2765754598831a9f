"""The commands of a conversation: lines such as `/clear` that say something to the program, not to the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from q3edge.cli.talk.conversation import Conversation
from q3edge.cli.talk.saved import Saved, load, save
from q3edge.errors import UsageError
from q3edge.plain_line import counted
from q3edge.runtime.generation.setting_table import SETTINGS
from q3edge.terminal import say

_KEYS = (
    "Enter sends; Alt-Enter, or a backslash and Enter, begins a new line. Up and Down bring back earlier messages, "
    "Ctrl-R searches them, Tab completes commands. Ctrl-C stops an answer; what has come of it stays in the "
    "conversation. Ctrl-D ends. A line that begins with a space is a message, whatever follows."
)
_FORCE = "--force"
_DEFAULT = "default"
_COMMAND = re.compile(r"/[A-Za-z_-]*")


class ConversationOver(Exception):  # noqa: N818  # it is no error
    """The user has ended the conversation."""


class Command(NamedTuple):
    """A command; argument: what follows it, in words ("": nothing).

    a_switch: with text behind it, it is part of a message, as Qwen3's `/think` and `/no_think` are.
    """

    name: str
    argument: str
    description: str
    obey: Callable[[Conversation, str], None]
    a_switch: bool = False


def command_in(message: str) -> tuple[Command, str] | None:
    """Find the command that a message is, and its argument; None: it is for the model. UsageError: no such command."""
    if not message.startswith("/"):
        return None
    word, *rest = message.split(maxsplit=1)
    if not _COMMAND.fullmatch(word):  # a path, a comment
        return None
    command, argument = _BY_NAME.get(_ALIASES.get(word, word)), rest[0].strip() if rest else ""
    if command is None:
        raise UsageError(f"{word}: no such command; /help lists them, and a space before the slash makes it a message")
    if argument and command.a_switch:
        return None
    if argument and not command.argument:
        raise UsageError(f"{word} stands alone; a space before the slash makes it a message")
    return command, argument


def completions(line: str) -> tuple[str, list[str]]:
    """Find the part of a line that is a command which may be completed, and all that it may become."""
    word, space, rest = line.partition(" ")
    if not space:
        return word, [name for name in _BY_NAME if name.startswith(word)] if word.startswith("/") else []
    if word == "/set" and " " not in rest:
        return rest, [name for name in SETTINGS if name.startswith(rest)]
    if word in ("/save", "/load"):
        path = rest.removeprefix(f"{_FORCE} ")
        return path, _paths(path)
    return "", []


def _paths(begun: str) -> list[str]:
    folder, slash, name = begun.rpartition("/")
    try:
        found = sorted(_path(folder + slash or ".").iterdir())
    except (OSError, UsageError):
        return []
    return [
        f"{folder}{slash}{path.name}{'/' * path.is_dir()}"
        for path in found
        if path.name.startswith(name) and (name or not path.name.startswith("."))
    ]


def _help(_talk: Conversation, _argument: str) -> None:
    titles = [f"{command.name} {command.argument}".strip() for command in COMMANDS]
    width = max(map(len, titles))
    lines = [f"  {title:<{width}}  {command.description}" for title, command in zip(titles, COMMANDS)]
    say("\n".join([*lines, _KEYS]))


def _clear(talk: Conversation, _argument: str) -> None:
    talk.clear()
    say("[the conversation begins anew]")


def _save(talk: Conversation, argument: str) -> None:
    forced = argument == _FORCE or argument.startswith(f"{_FORCE} ")
    path = _path(argument.removeprefix(_FORCE).strip() if forced else argument)
    save(path, Saved(talk.whole, talk.thinking, talk.settings), force=forced)
    say(f"[{counted(len(talk.messages), 'message')} saved in {path}]")


def _load(talk: Conversation, argument: str) -> None:
    found = load(_path(argument))
    first = found.messages[0] if found.messages and found.messages[0]["role"] == "system" else None
    talk.clear()
    talk.system = None if first is None else str(first["content"])
    talk.messages = list(found.messages[first is not None :])
    talk.thinking, talk.settings = found.thinking, dict(found.settings)
    say(f"[{counted(len(talk.messages), 'message')}, the system prompt and the settings are those of {argument}]")


def _system(talk: Conversation, argument: str) -> None:
    if argument:
        talk.system = None if argument == '""' else argument
    say(f"[system prompt: {talk.system or 'none'}]")


def _think(talk: Conversation, _argument: str) -> None:
    talk.thinking = True
    say("[thinking is on]")


def _no_think(talk: Conversation, _argument: str) -> None:
    talk.thinking = False
    say("[thinking is off]")


def _set(talk: Conversation, argument: str) -> None:
    name, _, text = argument.partition(" ")
    if argument:
        name = _setting(name)
        if not text.strip():
            raise UsageError(f"/set {name}: give a value ({SETTINGS[name].expected or 'see /help'}), or {_DEFAULT}")
        _change(talk, name, text.strip())
    shown = ", ".join(f"{name} {value}" for name, value in talk.settings.items())
    say(f"[settings of this conversation: {shown or 'those of the model'}]")


def _change(talk: Conversation, name: str, text: str) -> None:
    settings = {key: value for key, value in talk.settings.items() if key != name}
    if text != _DEFAULT:
        settings[name] = _value(SETTINGS[name].kind, text)
        try:
            talk.model.settings(settings)
        except TypeError as error:
            raise UsageError(str(error)) from None
    talk.settings = settings


def _setting(typed: str) -> str:
    """Name of a setting that is given by it, or by its flag."""
    names = {name: name for name in SETTINGS}
    names |= {setting.flag.strip("-").replace("-", "_"): name for name, setting in SETTINGS.items() if setting.flag}
    try:
        return names[typed.strip("-").replace("-", "_")]
    except KeyError:
        raise UsageError(f"/set {typed}: no such setting; there are {', '.join(SETTINGS)}") from None


def _value(kind: str, text: str) -> Any:
    if kind in ("text", "schema") or (kind == "texts" and text[0] not in '["'):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text  # as it is; what is no text is refused by its setting
    if isinstance(found, dict):  # a bias for each token id, which JSON has as text
        return [[int(name) if name.isdecimal() else name, value] for name, value in found.items()]
    return found


def _stats(talk: Conversation, _argument: str) -> None:
    speed = talk.new_tokens / talk.decode_seconds if talk.decode_seconds else 0.0
    say(
        f"[{counted(len(talk.messages), 'message')}; {talk.answered} answered with {talk.new_tokens} tokens at "
        f"{speed:.1f} tokens/s; the last turn took {talk.context_used} of {talk.context} tokens of context]"
    )


def _exit(_talk: Conversation, _argument: str) -> None:
    raise ConversationOver


def _path(typed: str) -> Path:
    if len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\"":
        typed = typed[1:-1]
    if not typed:
        raise UsageError("give a file: /save FILE, /load FILE")
    try:
        return Path(typed).expanduser()
    except RuntimeError:  # no such user
        return Path(typed)


COMMANDS = (
    Command("/help", "", "list the commands and keys", _help),
    Command("/clear", "", "forget what was said", _clear),
    Command("/save", "FILE", f"keep the conversation ({_FORCE} FILE: whatever is there)", _save),
    Command("/load", "FILE", "go on with a saved conversation", _load),
    Command("/system", "[TEXT]", 'change the system prompt ("": none), or show it', _system),
    Command("/think", "", "let the model reason first", _think, a_switch=True),
    Command("/no_think", "", "answer at once", _no_think, a_switch=True),
    Command("/set", "[NAME VALUE]", f"change a setting: /set temperature 0.7 (or {_DEFAULT})", _set),
    Command("/stats", "", "show tokens, speed and how full the context is", _stats),
    Command("/exit", "", "end the conversation", _exit),
)
_BY_NAME: Mapping[str, Command] = {command.name: command for command in COMMANDS}
_ALIASES: Mapping[str, str] = {"/no-think": "/no_think", "/quit": "/exit"}
