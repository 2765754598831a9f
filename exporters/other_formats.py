"""Formats of other programs that a checkpoint is written in: `q3edge export --to NAME`, one writer each.

A new one is a file here with its writer, an entry below, and its name in `q3edge.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q3edge.artifact import Notice
from q3edge.checkpoint import ModelFolder
from q3edge.exporters.compressed_tensors import write_compressed_tensors
from q3edge.exporters.gguf import write_gguf
from q3edge.exporters.gptq import write_gptq
from q3edge.exporters.mlx import write_mlx
from q3edge.formats import OtherFormat


@dataclass(frozen=True, slots=True)
class OtherWriter:
    """Writer of one format.

    programs: that read it, for messages. write: writes all files into an existing empty folder and returns notices of
    what differs from the checkpoint; InputError: a scheme, or another part of the model, that the format does not have,
    with what to choose instead. It asks for no more memory than a block of rows.
    """

    programs: str
    write: Callable[[ModelFolder, Path], tuple[Notice, ...]]


WRITERS: Final[Mapping[OtherFormat, OtherWriter]] = {
    "gguf": OtherWriter("llama.cpp and what is made of it", write_gguf),
    "compressed-tensors": OtherWriter("vLLM and transformers", write_compressed_tensors),
    "gptq": OtherWriter("GPTQModel, transformers and vLLM", write_gptq),
    "mlx": OtherWriter("mlx-lm", write_mlx),
}
