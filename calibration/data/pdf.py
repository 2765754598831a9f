"""Text of a PDF's pages. What the pages unpack to is bounded by the file's size before any of it is interpreted."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from types import ModuleType
from typing import Any

from q3edge.calibration.data.unpacking import ExpansionError

_FREE = 1_000_000  # bytes of drawing operators that any file may unpack to
_EXPANSION = 50  # and so many for each byte of the file; deflate gives text 5 to 10
_OPENING = 200  # a page or a form takes the time of so many bytes of operators
_MAP_SHARE = 6  # and each of its fonts that of a sixth of the map from its codes to Unicode
_DRAWN = re.compile(rb"/([^\s/<>\[\](){}%]+)\s+Do\b")
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")


def pdf_text(content: bytes, pypdf: ModuleType) -> str:
    """Text of all pages, separated by blank lines. ExpansionError; any other error of the library for a damaged file.

    Interpreting costs seconds for a megabyte of operators, and 10 KB can hold half a million of them.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every oddity of a page
    pages: list[str] = []
    sizes: dict[int, int] = {}
    limit = left = _FREE + _EXPANSION * len(content)
    for page in pypdf.PdfReader(io.BytesIO(content)).pages:
        drawn = page.get_contents()
        left -= _unpacked(b"" if drawn is None else drawn.get_data(), page.get("/Resources"), sizes)
        if left < 0:
            raise ExpansionError(f"more than {limit / 1e6:.0f} MB of drawing operators")
        pages.append(page.extract_text())
    return "\n\n".join(pages)


def _unpacked(content: bytes, resources: Any, sizes: dict[int, int]) -> int:
    """Bytes of operators in a content stream, and in the forms that it draws, each as often as it is drawn.

    Fonts count for what they cost. sizes: of the forms and maps known so far, by the identity of their objects; 0 while
    a form is counted, as drawing it inside itself draws nothing.
    """
    size = len(content) + _OPENING
    fonts = _member(_member(resources), "/Font")
    for font in fonts.values() if isinstance(fonts, dict) else ():
        codes = _member(_member(font), "/ToUnicode")
        if hasattr(codes, "get_data"):
            if id(codes) not in sizes:
                sizes[id(codes)] = len(codes.get_data()) // _MAP_SHARE
            size += sizes[id(codes)]
    forms = _member(_member(resources), "/XObject")
    for name, times in Counter(_DRAWN.findall(content)).items():
        form = _member(forms, "/" + _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), name).decode("latin-1"))
        if _member(form, "/Subtype") != "/Form":
            continue
        if id(form) not in sizes:
            sizes[id(form)] = 0
            sizes[id(form)] = _unpacked(form.get_data(), form.get("/Resources", resources), sizes)
        size += times * sizes[id(form)]
    return size


def _member(holder: Any, name: str | None = None) -> Any:
    """Object that a reference leads to, or a member of it; None where there is none."""
    found = holder.get_object() if hasattr(holder, "get_object") else holder
    if name is None or not isinstance(found, dict):
        return found if name is None else None
    return _member(found.get(name))
