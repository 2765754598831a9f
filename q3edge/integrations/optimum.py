"""A finished model as optimum-onnx's `ORTModelForCausalLM`, which transformers' `generate` and `pipeline` take.

    from q3edge.integrations.optimum import load
    from transformers import AutoTokenizer, pipeline

    writer = pipeline("text-generation", model=load("DIR"), tokenizer=AutoTokenizer.from_pretrained("DIR"))

Tried with optimum-onnx 0.1.0, which needs transformers 4.57: pip install 'q3edge[optimum]'. Nothing else in q3edge
imports this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from q3edge.errors import InputError, ResourceError
from q3edge.library.requests import artifact_at
from q3edge.machine.cpu import int8_products_saturate
from q3edge.machine.extras import install_line
from q3edge.runtime.session.loader import open_artifact

_EXACT_SUMS = "session.x64quantprecision"  # of int8 products on x86 without VNNI, as q3edge's own sessions have it


def load(path_or_id: str | Path, **settings: Any) -> Any:
    """Open the ONNX model at `path_or_id`, a folder or a hub id, as an `ORTModelForCausalLM`.

    Every file is checked against the manifest first. settings: of `ORTModelForCausalLM.from_pretrained`, such as
    session_options. InputError: the folder is damaged, holds no language model, or one with an int8 KV cache, which
    optimum cannot feed. ResourceError: optimum-onnx is not installed.
    """
    try:
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTModelForCausalLM
    except ImportError as error:
        raise ResourceError(
            f"this needs optimum-onnx, with a transformers that it takes (4.57) [{error}]: {install_line('optimum')}"
        ) from None
    folder = artifact_at(path_or_id)
    if open_artifact(folder).recipe.get("kv_cache") == "int8":
        raise InputError(
            f"{folder}: has an int8 KV cache, one buffer for past and present, which optimum lets grow; build it with "
            "--kv float32"
        )
    if "session_options" not in settings:
        settings["session_options"] = SessionOptions()
        if int8_products_saturate():
            settings["session_options"].add_session_config_entry(_EXACT_SUMS, "1")
    model = ORTModelForCausalLM.from_pretrained(folder, **settings)
    # It takes hidden_size / num_attention_heads for the width of a head, which Qwen3 gives by itself.
    model.embed_size_per_head = model.config.head_dim
    return model
