"""Text and JSON Lines files, replaced whole, and a token lookup."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from q3edge.storage.text_files import json_lines, read_utf8, refusal
from q3edge.storage.whole_files import write_whole


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file by one JSON object a line."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line."""
    return [row for _, row in json_lines(read_utf8(path), refusal(path, "not JSON"))]


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(text)
    if found is None:
        raise KeyError(text)
    return int(found)
