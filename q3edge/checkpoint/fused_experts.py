"""Experts stored as transformers 5 holds them in memory: one tensor of all gate and up matrices, one of all down ones.

`save_pretrained` writes the matrices of each expert; a state dict saved as it is has these. Shapes: gate_up_proj
[E, 2 I, H], gate's rows before up's, and down_proj [E, H, I] (transformers' Qwen3MoeExperts).
"""

from __future__ import annotations

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import layer_prefix
from q3edge.artifact import Notice
from q3edge.checkpoint.tensor_files import TensorFiles
from q3edge.errors import InputError

_FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def divide_fused_experts(stored: dict[str, str], files: TensorFiles, config: Qwen3Config) -> list[Notice]:
    """Replace fused tensors by the experts' own in `stored` (canonical -> stored name) and in `files`.

    Returns a Notice of how many there were. InputError: a shape that is not what config.json asks for, or an expert
    that is there by itself as well.
    """
    if config.moe is None:
        return []
    width, hidden = config.moe.moe_intermediate_size, config.hidden_size
    shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    divided = 0
    for layer in filter(config.is_moe_layer, range(config.num_hidden_layers)):
        for fused, matrices in _FUSED.items():
            name = f"{layer_prefix(layer)}mlp.experts.{fused}"
            if name not in stored:
                continue
            experts = range(config.moe.num_experts)
            parts = {
                f"{layer_prefix(layer)}mlp.experts.{expert}.{matrix}.weight": shapes[matrix]
                for expert in experts
                for matrix in matrices
            }
            rows = sum(shapes[matrix][0] for matrix in matrices)
            _check(files, stored, name, (len(experts), rows, shapes[matrices[0]][1]), [*parts])
            files.divide(stored.pop(name), parts)
            stored.update({part: part for part in parts})
            divided += 1
    if not divided:
        return []
    return [Notice("experts-divided", divided, "tensors hold a matrix of every expert; they were read as the experts'")]


def _check(files: TensorFiles, stored: dict[str, str], name: str, shape: tuple[int, ...], parts: list[str]) -> None:
    where, found = f"{files.path_of(stored[name])} ({name})", files.entries[stored[name]].shape
    if found != shape:
        raise InputError(f"{where}: shape {list(found)}, config.json asks for {list(shape)}")
    if twice := [part for part in parts if part in stored or part in files.entries]:
        raise InputError(f"{where}: also there as {twice[0]}; expected it once")
