"""GGUF files of a Qwen3 checkpoint: the float one as llama.cpp's converter writes it, and quantized ones of it.

    python gguf_model.py SOURCE TARGET.gguf TYPE          (in the environment of llama-cpp.txt)

SOURCE is a checkpoint, or a GGUF file, which is converted to TYPE whatever it is.
"""

from __future__ import annotations

import ctypes
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from contract import config, float_tensors

FTYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q4_K_M": 15, "IQ4_NL": 25}  # enum llama_ftype
_OTHERS = {"F32": 0, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q5_K_M": 17, "Q6_K": 18}
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}  # fmt: skip
_EXPERT = re.compile(r"(?P<block>.*\.mlp)\.experts\.(?P<number>\d+)\.(?P<part>gate|up|down)_proj\.weight")


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor."""
    fixed = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    if name in fixed:
        return fixed[name] + ".weight"
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    if found := _EXPERT.fullmatch(name):
        return f"blk.{layer}.ffn_{found['part']}_exps.weight"
    return f"blk.{layer}.{_PARTS[part]}.weight"


def expert_number(name: str) -> int:
    """Place of an expert's tensor in the one of its layer; 0 for any other tensor."""
    found = _EXPERT.fullmatch(name)
    return int(found["number"]) if found else 0


def write_float(checkpoint: Path, path: Path) -> None:
    """As convert_hf_to_gguf.py writes a Qwen3 model: matrices float16, vectors and routers float32.

    All experts of a layer are one tensor. No tokenizer: ids go in.
    """
    shape = config(checkpoint)
    experts = shape.get("num_experts")
    writer = gguf.GGUFWriter(path, "qwen3moe" if experts else "qwen3", use_temp_file=True)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(shape["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(shape["moe_intermediate_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    tensors = float_tensors(checkpoint)
    for name, tensor in tensors.items():
        if (found := _EXPERT.fullmatch(name)) is None:
            is_float = tensor.dim() == 1 or name.endswith("mlp.gate.weight")
            writer.add_tensor(gguf_name(name), tensor.to(torch.float32 if is_float else torch.float16).numpy())
        elif ".experts.0." in name:
            parts = (f"{found['block']}.experts.{number}.{found['part']}_proj.weight" for number in range(experts))
            writer.add_tensor(gguf_name(name), torch.stack([tensors[part].half() for part in parts]).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, ftype: str, importance: Mapping[str, np.ndarray] | None = None) -> None:
    """What `llama-quantize` does. importance: GGUF name -> mean square of every input channel."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = (FTYPES | _OTHERS)[ftype], torch.get_num_threads()
    settings.allow_requantize = True
    if importance is not None:
        kept = {name: np.ascontiguousarray(values, np.float32) for name, values in importance.items()}
        entries = (llama_cpp.llama_model_imatrix_data * (len(kept) + 1))()  # the last one, all zero, ends the list
        for entry, (name, values) in zip(entries, kept.items()):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        settings.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if code:
        raise SystemExit(f"llama_model_quantize returned {code}")


def main() -> None:
    """Convert what the command line names."""
    source, target, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    with tempfile.TemporaryDirectory() as work:
        if source.is_dir():
            write_float(source, plain := Path(work) / "float.gguf")
            source = plain
        quantize(source, target, kind)


if __name__ == "__main__":
    main()
