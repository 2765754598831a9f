"""JSON files that must hold an object, or a list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from q3edge.errors import InputError, unreadable
from q3edge.storage.regular_files import read_regular


def read_json_object(path: Path, advice: str = "download the file again") -> dict[str, Any]:
    """Parse a UTF-8 JSON file that must hold an object; otherwise InputError names the file.

    advice: what to do where it is not JSON; by default that for a file of a model.
    """
    value = _read(path, advice)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_json_list(path: Path) -> list[Any]:
    """Parse a UTF-8 JSON file of a model that must hold a list; otherwise InputError names the file."""
    value = _read(path, "download the file again")
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a JSON list, found {type(value).__name__}")
    return value


def _read(path: Path, advice: str) -> object:
    try:
        value: object = json.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; expected a model folder with this file") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); {advice}") from None
    except OSError as error:
        raise unreadable(f"{path}: cannot be read ({error.strerror})", error) from None
    return value
