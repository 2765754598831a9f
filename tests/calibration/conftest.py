"""Settings of every test of the calibration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The number of torch's threads is what it was, whatever a test sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
