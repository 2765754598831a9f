"""A float model, and the same model as QDIR."""

from __future__ import annotations

from pathlib import Path

import pytest

from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.quantization.scheme import Scheme
from tests.helpers.models import write_checkpoint
from tests.helpers.quantized_checkpoints import quantize, schemes_for


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    """A tied float model."""
    return open_float_model(write_checkpoint(tmp_path / "float"))


@pytest.fixture
def qdir(source: Checkpoint, tmp_path: Path) -> Path:
    """`source` in asymmetric int4 with an 8-bit table."""
    quantize(source, tmp_path / "q", schemes_for(source.config, Scheme(4, 32, False), Scheme(8, 32)))
    return tmp_path / "q"
