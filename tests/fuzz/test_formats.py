"""Damaged checkpoints of other tools, adapters and pickled files: refused in one line, or read whole and finite.

Where settings alone are damaged, what is read is what was written.
"""

from __future__ import annotations

import io
import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save, save_file

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError, Q3EdgeError
from tests.fuzz.cases import HOSTILE, check_refusals, counts, damaged_bytes, damaged_json, json_bytes, outcome
from tests.helpers.layouts import Codes, Tensors, awq_parts, gptq_parts, random_codes, write_layout, write_parts
from tests.helpers.models import MOE, edit_config, tiny_config, write_checkpoint

SMALL: dict[str, Any] = {"vocab_size": 64, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}
EXPERTS: dict[str, Any] = {**MOE, "num_experts": 2, "moe_intermediate_size": 32}
ROOM = 1 << 30  # bytes of address space that a case may add: a size that a file states is not believed
SINGLE, PICKLE, ADAPTER = "model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = (
    "F32", "F16", "BF16", "I16", "I32", "U32", "I64", "U8", "I8", "F8_E4M3", "F8_E5M2", "F64", "BOOL", "F4", "X",
    7, None,
)  # fmt: skip


def codes(bits: int = 4, group_size: int = 32) -> Callable[[tuple[int, int], int], Codes]:
    return lambda shape, seed: random_codes(shape, bits, group_size, symmetric=False, dtype=torch.float16, seed=seed)


def gptq(folder: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
    write_layout(folder, {**settings, "checkpoint_format": "gptq"}, codes(), lambda c: gptq_parts(c, 1), **SMALL)


def awq(folder: Path) -> None:
    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    write_layout(folder, settings, codes(), awq_parts, **SMALL)


def auto_round(folder: Path) -> None:
    settings = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "extra_config": {}}
    packed = {**settings, "packing_format": "auto_round:auto_gptq"}
    write_layout(folder, packed, codes(), lambda c: gptq_parts(c, 1), **SMALL)


def mlx(folder: Path, **config: Any) -> None:
    """Words of a matrix hold eight codes of its row, the first in the lowest bits."""

    def parts(c: Codes) -> Tensors:
        words = (c.codes.reshape(len(c.codes), -1, 8) << np.arange(0, 32, 4)).sum(axis=2)
        scales = torch.from_numpy(c.scales)
        biases = -torch.from_numpy(c.zero_points).float() * scales
        return {"weight": torch.from_numpy(words.astype(np.uint32)), "scales": scales, "biases": biases}

    write_layout(folder, {}, codes(), parts, **SMALL, **config)
    edit_config(folder, quantization={"group_size": 32, "bits": 4, "mode": "affine"}, quantization_config=None)


def mlx_experts(folder: Path) -> None:
    """The matrices of a layer's experts are one."""
    mlx(folder, **EXPERTS)
    tensors = load_file(folder / SINGLE)
    found = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for name in [name for name in tensors if ".experts.0." in name]:
        each = [tensors[name.replace("experts.0", f"experts.{expert}")] for expert in range(2)]
        found[name.replace("experts.0", "switch_mlp")] = torch.stack(each)
    save_file(found, folder / SINGLE)


def fp8(folder: Path) -> None:
    def parts(_: str, weights: torch.Tensor) -> Tensors:
        grid = (-(-weights.shape[0] // 32), -(-weights.shape[1] // 32))
        return {"weight": weights.to(torch.float8_e4m3fn), "weight_scale_inv": torch.full(grid, 0.5)}

    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    write_parts(folder, settings, parts, **SMALL)


def nf4(folder: Path) -> None:
    """Blocks of 64 whose scales are 8-bit too."""

    def parts(_: str, weights: torch.Tensor) -> Tensors:
        state = {
            "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weights.shape),
            "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5,
        }  # fmt: skip
        blocks = weights.numel() // 64
        return {
            "weight": torch.arange(weights.numel() // 2).to(torch.uint8)[:, None],
            "weight.absmax": torch.arange(blocks).to(torch.uint8),
            "weight.quant_map": torch.linspace(-1, 1, 16),
            "weight.nested_absmax": torch.ones(-(-blocks // 256)),
            "weight.nested_quant_map": torch.linspace(0, 1, 256),
            "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
        }

    write_parts(folder, {"quant_method": "bitsandbytes"}, parts, **SMALL)


def words_of_rows(codes: NDArray[np.integer[Any]]) -> torch.Tensor:
    """Words with eight codes of a row each, the first in the lowest bits, as int32."""
    words = (codes.reshape(len(codes), -1, 8).astype(np.int64) << np.arange(0, 32, 4)).sum(axis=2)
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def asymmetric(folder: Path) -> None:
    """compressed-tensors with zero points, in groups of 16, and a second group of settings for another module."""

    def parts(c: Codes) -> Tensors:
        return {
            "weight_packed": words_of_rows(c.codes),
            "weight_zero_point": words_of_rows(np.ascontiguousarray(c.zero_points.T)).T.contiguous(),
            "weight_scale": torch.from_numpy(c.scales),
            "weight_shape": torch.tensor(c.codes.shape),
        }

    weights = {"type": "int", "symmetric": False, "num_bits": 4, "strategy": "group", "group_size": 16}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    other = {**group, "targets": ["re:.*lm_head$"], "input_activations": {"num_bits": 8, "dynamic": True}}
    settings = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group, "group_1": other}}
    write_layout(folder, settings, codes(4, 16), parts, **SMALL)


def compressed_tensors(layout: str) -> Callable[[Path], None]:
    packed = layout == "pack-quantized"

    def parts(c: Codes) -> Tensors:
        scales = torch.from_numpy(c.scales).bfloat16()
        if not packed:
            return {"weight": torch.from_numpy(c.codes - 128).to(torch.int8), "weight_scale": scales[:, :1]}
        return {
            "weight_packed": words_of_rows(c.codes),
            "weight_scale": scales,
            "weight_shape": torch.tensor(c.codes.shape),
        }

    bits = 4 if packed else 8
    weights = {"num_bits": bits, "type": "int", "symmetric": True}
    weights |= {"strategy": "group", "group_size": 32} if packed else {"strategy": "channel"}
    inputs = None if packed else {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    settings = {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "version": "0.17.1",
    }  # fmt: skip

    def write(folder: Path) -> None:
        write_layout(folder, settings, codes(bits), parts, **SMALL)

    return write


def adapter(folder: Path) -> None:
    """An adapter and its base model, in one folder as MODEL+ADAPTER reads them."""
    write_checkpoint(folder, **SMALL)
    weights = load_file(folder / SINGLE)
    tensors, generator = {}, torch.Generator().manual_seed(0)
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        rows, width = weights[f"model.layers.0.{name}.weight"].shape
        stored = f"base_model.model.model.layers.0.{name}"
        tensors[f"{stored}.lora_A.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{stored}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
        tensors[f"{stored}.lora_magnitude_vector"] = 1 + torch.rand(rows, generator=generator)
    save_file(tensors, folder / ADAPTER)
    settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "use_dora": True, "bias": "none",
        "base_model_name_or_path": "base", "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"^model.layers.0": 16},
        "target_modules": ["q_proj", "down_proj"], "init_lora_weights": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def pickled(folder: Path) -> None:
    write_checkpoint(folder, **SMALL)
    torch.save(load_file(folder / SINGLE), folder / PICKLE)
    (folder / SINGLE).unlink()


def vision(experts: dict[str, Any]) -> Callable[[Path], None]:
    """Text part of a Qwen3-VL, its experts as they were released, with a tensor of vision."""

    def write(folder: Path) -> None:
        write_checkpoint(folder, **SMALL, **experts)
        found = {}
        for name, tensor in load_file(folder / SINGLE).items():
            if ".experts." not in name:
                found[name.replace("model.", "model.language_model.", 1)] = tensor
        if experts:
            prefix = "model.language_model.layers.0.mlp.experts."
            found[f"{prefix}gate_up_proj"] = torch.ones(2, 64, 96).bfloat16()
            found[f"{prefix}down_proj"] = torch.ones(2, 48, 64).bfloat16()
        save_file({**found, "model.visual.merger.weight": torch.ones(4, 4)}, folder / SINGLE)
        text = {**tiny_config(**SMALL, **experts), "moe_intermediate_size": 48}
        for key in ("architectures", "model_type", "rope_scaling", "rope_theta", "tie_word_embeddings"):
            del text[key]
        text["rope_parameters"] = {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True,
        }  # fmt: skip
        kind = "Qwen3VLMoe" if experts else "Qwen3VL"
        whole = {
            "architectures": [f"{kind}ForConditionalGeneration"], "text_config": text, "tie_word_embeddings": True,
            "model_type": "qwen3_vl_moe" if experts else "qwen3_vl", "vision_config": {"depth": 2},
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(whole))

    return write


KINDS: dict[str, Callable[[Path], None]] = {
    "gptq": gptq, "awq": awq, "auto-round": auto_round, "mlx": mlx, "mlx-experts": mlx_experts, "fp8": fp8,
    "pack-quantized": compressed_tensors("pack-quantized"), "int-quantized": compressed_tensors("int-quantized"),
    "pack-quantized-asymmetric": asymmetric, "bitsandbytes": nf4,
    "adapter": adapter, "pickled": pickled, "vision": vision({}), "vision-experts": vision(EXPERTS),
}  # fmt: skip


# Kinds whose settings are in config.json's quantization_config.
SETTINGS = ("gptq", "awq", "auto-round", "fp8", "pack-quantized", "int-quantized", "pack-quantized-asymmetric",
            "bitsandbytes")  # fmt: skip


def in_a_shard(folder: Path) -> None:
    """Rename the only file to a shard, and write its index."""
    shard = "model-00001-of-00001.safetensors"
    weight_map = dict.fromkeys(load_file(folder / SINGLE), shard)
    (folder / SINGLE).rename(folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def changed_header(header: dict[str, Any], source: random.Random) -> dict[str, Any]:
    """Header that fits the file still: a tensor with another dtype or shape of as many bytes, or another name."""
    name = source.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    match source.randrange(4):
        case 0:
            entry["dtype"] = source.choice(DTYPES)
        case 1:
            shape = entry["shape"]
            size = int(np.prod(shape))
            entry["shape"] = source.choice(
                ([size], [], [1, *shape], [*shape, 1], shape[::-1], [0], [size, 1], [1, size], [2**31, 2**31])
            )
        case 2:
            other = source.choice([other for other in header if other != "__metadata__"])
            header[name], header[other] = header[other], entry
        case _:
            header[
                source.choice(
                    (
                        name + "x",
                        name[::-1],
                        name.replace(".0.", ".1."),
                        name.replace("weight", "w"),
                        "model.norm.scales",
                        "",
                    )
                )
            ] = header.pop(name)
    return header


def damaged_safetensors(content: bytes, source: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    chance = source.random()
    if chance < 0.2:
        return damaged_bytes(content, source)
    if chance < 0.4:
        return whole_file_of(content, source)
    text = json.dumps(changed_header(header, source)).encode()
    if chance < 0.6:
        text = json_bytes(damaged_json(header, source), source)
    return len(text).to_bytes(8, "little") + text + data


def changed_tensors(tensors: dict[str, Any], source: random.Random) -> dict[str, Any]:
    """Tensors of which one is missing, twice, empty, longer, of another type, or not finite."""
    name = source.choice([*tensors])
    tensor = tensors[name]
    match source.randrange(7):
        case 0:
            del tensors[name]
        case 1:
            tensors[name + source.choice(("x", ".g_idx", "_scale"))] = tensor.clone()
        case 2:
            tensors[name] = tensor[:0].clone()
        case 3:
            tensors[name] = torch.cat([tensor.reshape(-1), tensor.reshape(-1)])
        case 4:
            tensors[name] = tensor.float().to(source.choice((torch.float64, torch.int32, torch.uint8, torch.float16)))
        case 5:
            value = source.choice((float("nan"), float("inf"), 65504.0, -1.0, 0.0))
            tensors[name] = torch.full(tensor.shape, value).to(tensor.dtype if tensor.is_floating_point() else None)
        case _:
            tensors[name] = torch.randint(0, 256, (tensor.numel() * tensor.element_size(),), dtype=torch.uint8)
    return tensors


def whole_file_of(content: bytes, source: random.Random) -> bytes:
    from safetensors.torch import load

    return save(changed_tensors(load(content), source))


def damaged_pickle(content: bytes, source: random.Random) -> bytes:
    if source.random() < 0.5:
        return damaged_bytes(content, source)
    tensors = changed_tensors(torch.load(io.BytesIO(content), weights_only=True), source)
    if source.random() < 0.3:
        others = (*HOSTILE, torch.nn.Linear(2, 2), torch.ones(2, 2).to_sparse())
        tensors[source.choice([*tensors, "x"])] = source.choice(others)
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def damaged(name: str, content: bytes, source: random.Random) -> bytes:
    if name.endswith(".json"):
        raw = json.loads(content)
        settings = [key for key in ("quantization_config", "quantization", "text_config") if raw.get(key)]
        if settings and source.random() < 0.7:
            raw[settings[0]] = damaged_json(raw[settings[0]], source)
            return json.dumps(raw).encode("utf-8", "surrogatepass")
        return json_bytes(damaged_json(raw, source), source)
    return damaged_pickle(content, source) if name.endswith(".bin") else damaged_safetensors(content, source)


def read(model: str) -> dict[str, NDArray[np.float32]]:
    """Read every value, and every code that is kept, which must say the same; returns the values of the matrices."""
    found: dict[str, NDArray[np.float32]] = {}
    with open_float_model(model) as opened:
        for name in opened.names():
            values = opened.read(name)
            assert np.isfinite(values).all()
            if name in opened.matrices:
                found[name] = values
        for name, matrix in opened.matrices.items():
            if matrix.scheme is None:
                assert matrix.why_not
                continue
            block = matrix.codes(slice(0, matrix.shape[0]))
            assert block.codes.max() <= matrix.scheme.max_code, name
            kept = block.dequantize()
            assert np.isfinite(kept).all(), name
            if matrix.approximation is None:
                np.testing.assert_array_equal(kept, found[name], err_msg=name)
    return found


@contextmanager
def little_room() -> Iterator[None]:
    """Let no case allocate more than ROOM."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("kind", "shards"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in KINDS if kind != "pickled")]
)
def test_damaged_checkpoints(tmp_path: Path, kind: str, shards: bool) -> None:
    folder = tmp_path / "m"
    KINDS[kind](folder)
    if shards:
        in_a_shard(folder)
    model = f"{folder}+{folder}" if kind == "adapter" else str(folder)
    read(model)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    of_shards = [name for name in whole if name == INDEX]
    kind += "-shards" if shards else ""
    refused = 0
    with little_room():
        for number, source in counts(kind, 25, 1000):
            name = source.choice(of_shards or [*whole])
            (folder / name).write_bytes(damaged(name, whole[name], source))
            found = outcome(f"{kind}:{number}", lambda: read(model))
            refused += isinstance(found, InputError)
            (folder / name).write_bytes(whole[name])
    check_refusals(refused)


@pytest.mark.parametrize("kind", SETTINGS)
def test_damaged_settings_change_no_value(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "m"
    KINDS[kind](folder)
    expected, config = read(str(folder)), json.loads((folder / "config.json").read_bytes())
    refused = 0
    for number, source in counts(f"{kind}-settings", 25, 1000):
        settings = damaged_json(config["quantization_config"], source)
        (folder / "config.json").write_bytes(json_bytes({**config, "quantization_config": settings}, source))
        case = f"{kind}-settings:{number}"
        found = outcome(case, lambda: read(str(folder)))
        if isinstance(found, Q3EdgeError):
            refused += 1
            continue
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=case)
    check_refusals(refused)
