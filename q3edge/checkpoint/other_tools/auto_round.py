"""AutoRound's own checkpoints: layers in GPTQ's or AWQ's layout, which `packing_format` names; bits differ by layer.

"auto_round:auto_gptq" stores zero points one less than they are, "auto_round" and "auto_round:gptqmodel" as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import matrix_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.float_checkpoint import Checkpoint
from q3edge.checkpoint.matrix import StoredMatrix, require_matrices, take_parts
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, quantization_settings
from q3edge.checkpoint.other_tools.awq import AWQ_PARTS, AwqMatrix
from q3edge.checkpoint.other_tools.gptq import GPTQ_PARTS, GptqMatrix
from q3edge.errors import InputError

_ONE_LESS: Mapping[str, int] = {  # what stored zero points lack, in GPTQ's layout
    "auto": 1, "auto_round:auto_gptq": 1, "auto_round:gptq": 1, "auto_round": 0, "auto_round:gptqmodel": 0,
}  # fmt: skip
_IN_AWQ = ("auto_round:auto_awq", "auto_round:awq")
_METHODS = ("auto-round", "auto_round", "intel/auto-round")


class AutoRoundCheckpoint(Checkpoint):
    """AutoRound checkpoint: config.json says `quant_method: auto-round`, some matrices are packed, others float."""

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        settings = quantization_settings(raw_config)
        layout = settings.get("packing_format", "auto")
        kind = settings.get("data_type", "int")
        if layout not in (*_ONE_LESS, *_IN_AWQ) or kind not in ("int", None):
            raise InputError(
                f"{self.folder / CONFIG_FILE}: packing_format {shown(layout)} of {shown(kind)}: of AutoRound's only "
                f"integers in {', '.join((*_ONE_LESS, *_IN_AWQ)[1:])} are read; start from the original model"
            )
        matrices: dict[str, StoredMatrix] = {}
        for name, shape in matrix_shapes(self.config).items():
            if layout in _IN_AWQ:
                if parts := take_parts(self._files, stored, name, AWQ_PARTS):
                    matrices[name] = AwqMatrix(parts, shape)
            elif parts := take_parts(self._files, stored, name, *GPTQ_PARTS):
                matrices[name] = GptqMatrix(parts, shape, _ONE_LESS[layout])
        self._tell_rounded_inputs(settings, len(matrices))
        return require_matrices(matrices, self.folder, "auto-round")

    def _tell_rounded_inputs(self, settings: Mapping[str, Any], count: int) -> None:
        bits = settings.get("act_bits") or 16
        if not isinstance(bits, int) or bits < 16:
            detail = f"inputs of layers that the checkpoint rounds to {shown(bits)} bits stay float"
            self._notices.append(Notice("inputs-not-rounded", count, detail))


def _recognises(path: Path) -> bool:
    return quantization_method(path) in _METHODS


AUTO_ROUND: Final = ModelFormat("AutoRound", _recognises, AutoRoundCheckpoint.open)
