"""Calibration text: from local files to a frozen array of tokens, which a data-aware solver rounds for.

In the order that a text travels: files (which), readers and records (text to documents), cleaning, tagging, quality,
duplicates, dialogues (documents to tokens), mixture (tokens to rows). `loading` puts them together. `token_file` reads
tokens that were frozen elsewhere.
"""

from __future__ import annotations

from q3edge.calibration.data.calibration_set import CalibrationSet, SourceCount
from q3edge.calibration.data.loading import load_calibration_set
from q3edge.calibration.data.mixture import DEFAULT_SHARES
from q3edge.calibration.data.readers import require_readers
from q3edge.calibration.data.token_file import TOKEN_FILE, load_token_file

__all__ = [
    "DEFAULT_SHARES",
    "TOKEN_FILE",
    "CalibrationSet",
    "SourceCount",
    "load_calibration_set",
    "load_token_file",
    "require_readers",
]
