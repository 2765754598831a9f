"""Marks of GSM8K's worked solutions (github.com/openai/grade-school-math), which other texts do not contain."""

from __future__ import annotations

import re

RESULT_MARK = "\n#### "  # between the working and its result
# An equation for a calculator, 3 * 4 = <<3*4=12>>12. Without an equals sign it may be code: 1 << 2 >> 1.
_CALCULATOR_NOTE = re.compile(r"<<[0-9+\-*/().,%$ ]*=[0-9+\-*/().,%=$ ]*>>")


def without_calculator_notes(text: str) -> str:
    """Remove the notes for a calculator from `text`, such as <<3*4=12>>."""
    return _CALCULATOR_NOTE.sub("", text)
