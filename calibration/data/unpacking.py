"""`ExpansionError`: a file of calibration unpacks to far more than its size explains."""

from __future__ import annotations


class ExpansionError(ValueError):
    """The content is larger than a reader takes; the text says how large it may be."""
