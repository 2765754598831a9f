"""Chat template of a folder, as text, and the special tokens that it may name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from q3edge.artifact.side_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from q3edge.storage.json_files import read_json_object
from q3edge.storage.text_files import read_utf8

_MOST = 1 << 20  # bytes of a template's own file; those of published models have thousands
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """Text of a template, the file that it comes from, and the text of each special token by its name."""

    text: str
    source: str
    special_tokens: dict[str, str] = field(default_factory=dict)


def read_template(folder: Path, other: Path | None = None) -> TemplateFile | None:
    """Read chat_template.jinja in `folder`, else the template in tokenizer_config.json; None without either.

    other: a file that takes the place of both. InputError: a file is not UTF-8 text or not JSON, or has over 1 MiB.
    """
    path = folder / TOKENIZER_CONFIG_FILE
    config = _tokenizer_config(folder)
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    own_file = folder / CHAT_TEMPLATE_FILE
    if other is not None or own_file.exists():
        path = other or own_file
        template = read_utf8(path, "a chat template", _MOST)
    if not isinstance(template, str):
        return None
    return TemplateFile(template, str(path), _special_tokens(config))


def end_token(folder: Path) -> str | None:
    """Text of the `eos_token` of folder/tokenizer_config.json; None if it names none. InputError: not JSON."""
    return _special_tokens(_tokenizer_config(folder)).get("eos_token")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / TOKENIZER_CONFIG_FILE
    return read_json_object(path) if path.exists() else {}


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {name: _content(config.get(name)) for name in _SPECIAL_TOKENS}
    return {name: token for name, token in tokens.items() if token is not None}


def _content(token: object) -> str | None:
    """Text of a special token; tokenizer_config.json holds a string or an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
