"""LoRA adapters, merged as they are read: equal to peft's own merge, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.checkpoint.hub import parts_of
from q3edge.errors import InputError
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.models import write_checkpoint

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
QUERY = "model.layers.0.self_attn.q_proj.weight"
STORED = "base_model.model.model.layers.0.self_attn.q_proj"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def our_logits(model: str | Path, ids: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    with open_float_model(model) as checkpoint:
        hidden = hidden_states(checkpoint, ids.numpy())
        return LogitsHead(checkpoint).logits(hidden.flatten(0, 1)).reshape(*ids.shape, -1).numpy()


def write_adapter(
    base: Path, folder: Path, *, quantized: bool = False, steps: int = 0, **settings: Any
) -> torch.Tensor:
    """Make an adapter with peft, with random changes or some steps of training; returns the merged model's logits."""
    import peft
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.manual_seed(0)
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=four_bits if quantized else None
    )
    vocabulary = model.config.vocab_size
    model = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "target_modules": TARGETS, **settings}))
    ids = torch.randint(2, min(300, vocabulary), (2, 24))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not steps:
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    optimizer = torch.optim.Adam(trained, 1e-2)
    for _ in range(steps):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(folder))
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(whole, folder).merge_and_unload()
    with torch.no_grad():
        logits: torch.Tensor = merged(ids).logits
    return torch.cat([ids.float().unsqueeze(-1), logits], -1)


def check(base: Path, folder: Path, found: torch.Tensor, tolerance: float = 2e-5) -> None:
    ids, expected = found[..., 0].long(), found[..., 1:].numpy()
    plain = our_logits(base, ids)
    for model in (f"{base}+{folder}", folder):
        ours = our_logits(model, ids)
        assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < tolerance
    assert np.linalg.norm(plain - expected) / np.linalg.norm(expected) > 0.01  # it changes the model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of peft, bitsandbytes and transformers
def test_a_qlora_adapter_trained_on_the_embedded_model_merges_as_peft_merges_it(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    found = write_adapter(DEMO_MODEL, tmp_path / "a", quantized=True, steps=8)
    check(DEMO_MODEL, tmp_path / "a", found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 16, "use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2, "model.layers.1.mlp.up_proj": 3}, "alpha_pattern": {"0.mlp.down_proj": 32}},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"modules_to_save": ["lm_head", "norm"]},
        {"modules_to_save": ["embed_tokens"], "target_modules": ["v_proj"]},
    ],
    ids=["rslora", "dora", "patterns", "tables", "saved head and norms", "saved embedding"],
)
def test_kinds_of_adapters_merge_as_peft_merges_them(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = write_checkpoint(tmp_path / "base", tie_word_embeddings=False)
    check(base, tmp_path / "a", write_adapter(base, tmp_path / "a", **settings))


Change = Callable[[dict[str, Any]], Any]


def handmade(base: Path, folder: Path, change: Change = lambda t: None, **settings: Any) -> Path:
    folder.mkdir()
    with open_float_model(base) as model:
        rows, width = model.read(QUERY).shape
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{STORED}.lora_A.weight": torch.randn(4, width, generator=generator),
        f"{STORED}.lora_B.weight": torch.randn(rows, 4, generator=generator),
    }
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    raw = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    return folder


def test_rows_digest_and_notices(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = handmade(base, tmp_path / "a")
    stored = load_file(adapter / "adapter_model.safetensors")
    with open_float_model(base) as plain, open_float_model(f"{base}+{adapter}") as merged:
        change = 2.0 * stored[f"{STORED}.lora_B.weight"] @ stored[f"{STORED}.lora_A.weight"]
        expected = plain.read(QUERY) + change.numpy()
        np.testing.assert_allclose(merged.read(QUERY), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(merged.read(QUERY, slice(5, 9)), expected[5:9], rtol=1e-5, atol=1e-5)
        assert merged.digest() != plain.digest()
        assert merged.folders == (base, adapter)
        assert {notice.code: notice.count for notice in merged.notices} == {"adapter-merged": 1}
        assert merged.dtype_counts()["LoRA merged"] == 1
        again = Checkpoint.open_again(*merged.folders)
        assert again.digest() == merged.digest()


def test_one_beside_a_whole_model_is_told_and_not_merged(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = handmade(base, tmp_path / "a")
    with open_float_model(base) as model:
        plain = model.read(QUERY)
    for file in adapter.iterdir():
        shutil.copy(file, base)
    with open_float_model(base) as model:
        assert [notice.code for notice in model.notices] == ["adapter-not-merged"]
        np.testing.assert_array_equal(model.read(QUERY), plain)
    with open_float_model(f"{base}+{base}") as model:
        assert [notice.code for notice in model.notices] == ["adapter-merged"]


@pytest.mark.parametrize("files", [("pytorch_model.bin",), ("pytorch_model-00001-of-00001.bin",)])
def test_one_beside_a_model_in_files_of_torch(tmp_path: Path, files: tuple[str, ...]) -> None:
    base = write_checkpoint(tmp_path / "base")
    whole = write_checkpoint(tmp_path / "whole", seed=1)
    tensors = load_file(whole / "model.safetensors")
    (whole / "model.safetensors").unlink()
    torch.save(tensors, whole / files[0])
    if files[0] != "pytorch_model.bin":
        index = {"weight_map": dict.fromkeys(tensors, files[0])}
        (whole / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for file in handmade(base, tmp_path / "a").iterdir():
        shutil.copy(file, whole)
    with open_float_model(whole) as model:  # not the adapter's base model, which is another
        assert [notice.code for notice in model.notices] == ["adapter-not-merged"]
        np.testing.assert_array_equal(model.read(QUERY), tensors[QUERY].float())


def test_a_changed_head_of_a_tied_model_becomes_its_own(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    head = torch.ones(320, 64)
    adapter = handmade(base, tmp_path / "a", lambda t: t.update({"base_model.model.lm_head.weight": head}))
    with open_float_model(f"{base}+{adapter}") as model:
        assert not model.config.tie_word_embeddings
        assert "lm_head.weight" in model.names()
        np.testing.assert_array_equal(model.read("lm_head.weight"), head)
        assert not np.array_equal(model.read("model.embed_tokens.weight"), head)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda t: t.pop(f"{STORED}.lora_B.weight"), {}, "q_proj.*lora_B is missing"),
        (lambda t: t.update({f"{STORED}.lora_A.weight": torch.ones(4, 63)}), {}, "lora_A.*shape.*another base model"),
        (lambda t: t.update({f"{STORED}.lora_A.weight": torch.ones(4, 64).int()}), {}, "lora_A.*dtype I32"),
        (lambda t: t.update({"base_model.model.model.layers.9.x.lora_A.weight": torch.ones(1)}), {}, "does not have"),
        (lambda t: t.update({f"{STORED}.lora_E": torch.ones(1)}), {}, "does not have"),
        (lambda t: t.clear(), {}, "holds no tensor"),
        (lambda t: t.update({"model.embed_tokens.weight": torch.ones(320, 64)}), {}, "the model's head is tied to it"),
        (lambda t: None, {"r": 5}, "r = 5 for model.layers.0.self_attn.q_proj, but .* has rank 4"),
        (lambda t: None, {"r": 0}, "r = 0: expected a positive number"),
        (lambda t: None, {"lora_alpha": "x"}, "lora_alpha"),
        (lambda t: None, {"peft_type": "LOHA"}, "peft_type = 'LOHA': expected LORA"),
        (lambda t: None, {"init_lora_weights": "pissa_niter_4"}, "belongs to a base model that training changed first"),
        (lambda t: None, {"bias": "all"}, "trains biases"),
        (lambda t: None, {"use_qalora": True}, "use_qalora = True: is not supported"),
        (lambda t: None, {"alpha_pattern": {"(a+)+$": 3}}, "regular expressions of an unknown file are not run"),
        (lambda t: None, {"rank_pattern": [1]}, "rank_pattern: expected names of modules"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Change, settings: dict[str, Any], message: str) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = handmade(base, tmp_path / "a", change, **settings)
    with pytest.raises(InputError, match=message):
        open_float_model(f"{base}+{adapter}")


def test_a_base_model_that_is_not_at_hand_is_named(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = handmade(base, tmp_path / "a", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"an adapter \(LoRA\) for .*gone, which is not at hand .*give BASE\+ADAPTER"):
        open_float_model(adapter)
    adapter = handmade(base, tmp_path / "b", base_model_name_or_path=None)
    with pytest.raises(InputError, match="base_model_name_or_path = None: names no model"):
        open_float_model(adapter)
    with pytest.raises(InputError, match="not found"):
        open_float_model(f"{base}+{tmp_path / 'nothing'}")


def test_folders_with_a_plus_in_their_name(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "a+b")
    for adapter in (handmade(base, tmp_path / "c"), handmade(base, tmp_path / "d+e")):
        with open_float_model(f"{base}+{adapter}") as model:
            assert model.folders == (base, adapter)
    assert parts_of(f"org/name+{tmp_path / 'd+e'}") == ("org/name", str(tmp_path / "d+e"))
    assert parts_of("org/name+none") == ("org/name", "none")


def test_large_rows_of_dora_keep_their_direction(tmp_path: Path) -> None:
    """Squares of 1e30 are beyond float32: a norm of infinity made the row 0."""
    base = write_checkpoint(tmp_path / "base")

    def change(tensors: dict[str, Any]) -> None:
        tensors[f"{STORED}.lora_B.weight"][3] = 1e30
        tensors[f"{STORED}.lora_magnitude_vector"] = torch.full((128,), 2.0)

    adapter = handmade(base, tmp_path / "a", change, use_dora=True)
    with open_float_model(f"{base}+{adapter}") as model:
        np.testing.assert_allclose(np.linalg.norm(model.read(QUERY), axis=1), 2.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("someone/Base", False),  # a fork, or a copy by the same name
        ("/home/me/models/other", False),  # a path of another machine says nothing
        ("../other", False),
        ("C:\\models\\other", False),
        (None, False),
        (7, False),
    ],
)
def test_a_base_model_of_another_name_is_told(tmp_path: Path, named: object, told: bool) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = handmade(base, tmp_path / "a", base_model_name_or_path=named)
    with open_float_model(f"{base}+{adapter}") as model:
        found = [notice for notice in model.notices if notice.code == "adapter-of-another-base"]
    assert len(found) == told
    if told:
        assert "names Qwen/Qwen3-0.6B as its base model and was merged into base, whose shapes fit" in found[0].detail


def test_a_base_model_in_the_hub_s_cache_has_its_repository_s_name(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "0123")
    for named, told in (("Qwen/Qwen3-0.6B", 0), ("Qwen/Qwen3-0.6B-Base", 1)):
        adapter = handmade(base, tmp_path / named.replace("/", "-"), base_model_name_or_path=named)
        with open_float_model(f"{base}+{adapter}") as model:
            assert sum(notice.code == "adapter-of-another-base" for notice in model.notices) == told
