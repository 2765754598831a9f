"""QDIR in transformers: its logits are those of the dequantized weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compressed_tensors
import pytest
import torch
from numpy.testing import assert_array_equal
from packaging.version import Version
from transformers import Qwen3ForCausalLM

from q3edge.checkpoint import open_float_model
from q3edge.quantization.scheme import Scheme
from tests.helpers.models import write_checkpoint
from tests.helpers.quantized_checkpoints import UP, W8A8, quantize, schemes_for

# compressed-tensors 0.18-0.20 prepares no module for packed zero points (compress on the meta device), so transformers
# refuses such files, the library's own included. Strict: the day it works, this says to raise the bound.
CANNOT_LOAD_ZERO_POINTS = Version(compressed_tensors.__version__) >= Version("0.18")


def case(linear: Scheme, table: Scheme | None, tied: bool) -> Any:
    """A test case; expected to fail where the installed library cannot load its packed zero points."""
    packed = [linear] if tied or table is None else [linear, table]
    broken = CANNOT_LOAD_ZERO_POINTS and not all(scheme.symmetric for scheme in packed)
    marks = (
        [pytest.mark.xfail(strict=True, raises=RuntimeError, reason="bug of the installed library")] if broken else []
    )
    label = f"{linear.label()}/{table.label() if table else 'float'}/{'tied' if tied else 'untied'}"
    return pytest.param(linear, table, tied, marks=marks, id=label)


@pytest.mark.parametrize(
    ("linear", "table", "tied"),
    [
        case(linear, table, tied)
        for tied in (True, False)
        for linear, table in [
            (Scheme(4, 32, symmetric=False), Scheme(8, 32)),
            (Scheme(4, 64), Scheme(8, 32)),
            (Scheme(8, 32), Scheme(8, 32)),
            (Scheme(2, 16), Scheme(4, 16, symmetric=False)),
            (Scheme(8, 64), None),
            (Scheme(4, 32, scales="float16"), Scheme(8, 32, scales="float16")),
        ]
    ],
)
def test_transformers_gives_the_logits_of_dequantize(
    tmp_path: Path, linear: Scheme, table: Scheme | None, tied: bool
) -> None:
    source = open_float_model(write_checkpoint(tmp_path / "float", tie_word_embeddings=tied))
    written = quantize(source, tmp_path / "q", schemes_for(source.config, linear, table))
    quantized = Qwen3ForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32).eval()
    reference = Qwen3ForCausalLM.from_pretrained(tmp_path / "float", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in written.items():
            reference.get_parameter(name).copy_(torch.from_numpy(tensor.dequantize()))
        ids = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(0))
        expected, found = reference(ids).logits, quantized(ids).logits
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert expected.std() > 0.1


def test_transformers_decodes_w8a8_weights_exactly(tmp_path: Path) -> None:
    source = open_float_model(write_checkpoint(tmp_path / "float"))
    written = quantize(source, tmp_path / "q", schemes_for(source.config, W8A8, Scheme(8, 32)))
    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.arange(10)[None]).logits
    assert torch.isfinite(logits).all()
    assert_array_equal(model.get_parameter(UP).detach().numpy(), written[UP].dequantize())
    activations = model.get_submodule(UP.removesuffix(".weight")).quantization_scheme.input_activations
    assert (activations.num_bits, activations.strategy, activations.dynamic) == (8, "token", True)
