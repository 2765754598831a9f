"""`quantize --for vllm`: whether a model fits what is chosen for vLLM, and what is said of the choice."""

from __future__ import annotations

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import Notice
from q3edge.errors import InputError
from q3edge.quantization.recipe import Recipe


def chosen_for_vllm(config: Qwen3Config, where: str) -> Notice:
    """Make the notice of what is chosen for a model; `where` is its folder.

    InputError: a width that the groups do not divide. vLLM makes one matrix of q, k and v, one of gate and up, and one
    of all experts, so that none of them can be left out.
    """
    (rule,) = Recipe.for_vllm().rules
    scheme = rule.scheme
    assert scheme is not None
    assert scheme.group_size is not None
    widths = {name: shape[-1] for name, shape in tensor_shapes(config).items() if rule.matches(name)}
    for name, width in widths.items():
        if width % scheme.group_size:
            raise InputError(
                f"{where} ({name}): groups of {scheme.group_size} do not divide its width of {width}, and vLLM has "
                "no smaller ones; --for vllm is not for this model"
            )
    detail = (
        f"matrices get {scheme.bits} bits in symmetric groups of {scheme.group_size}, chosen for vLLM: it loads them "
        "in dense models and experts alike, and of its groups they keep most for their bytes; embedding and head stay "
        "float, as it has no codes for a table that is both"
    )
    return Notice("chosen-for-program", len(widths), detail)
