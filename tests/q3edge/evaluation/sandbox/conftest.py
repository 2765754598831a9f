"""The sandbox of this machine."""

from __future__ import annotations

import pytest

from q3edge.evaluation.sandbox.sandbox import Sandbox
from tests.helpers.programs import kernel_or_skip


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    kernel_or_skip()
    return Sandbox.open()
