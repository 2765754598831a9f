"""What transformers 5 saves of a tokenizer is written so that transformers 4 and transformers.js read it too."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from q3edge.artifact.side_files import TOKENIZER_CONFIG_FILE
from q3edge.errors import InputError
from q3edge.exporters.tokenizer_config import widen_tokenizer_config
from q3edge.runtime.text.chat_template import ChatTemplate

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
MESSAGES = [{"role": "user", "content": "What is 2 + 3?"}]


def test_a_tokenizer_saved_by_transformers_5_has_the_fields_of_transformers_4(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    saved = {
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<|im_start|>"],
        "eos_token": "E",
    }
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text(json.dumps(saved))
    (notice,) = widen_tokenizer_config(tmp_path)
    assert json.loads((tmp_path / TOKENIZER_CONFIG_FILE).read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "E",
        "chat_template": "{{ messages[0].content }}",
        "additional_special_tokens": ["<|im_start|>"],
    }
    assert (notice.code, notice.count) == ("tokenizer-config-rewritten", 4)
    assert widen_tokenizer_config(tmp_path) == ()


def test_no_special_token_and_no_text_is_lost(tmp_path: Path) -> None:
    saved = {"additional_special_tokens": ["a", "b"], "extra_special_tokens": ["b", "c"], "note": "\ud800 é"}
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text(json.dumps(saved))
    widen_tokenizer_config(tmp_path)
    written = json.loads((tmp_path / TOKENIZER_CONFIG_FILE).read_text())
    assert written == {"additional_special_tokens": ["a", "b", "c"], "note": "\ud800 é"}


def test_transformers_and_q3edge_read_the_same_as_before(tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(DEMO_MODEL).save_pretrained(tmp_path)
    widen_tokenizer_config(tmp_path)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (DEMO_MODEL, tmp_path))
    text = "".join(before.all_special_tokens) + "<think>What is 2 + 3?</think>"
    assert after.encode(text) == before.encode(text)
    assert after.all_special_tokens == before.all_special_tokens
    rendered = after.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered == before.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    own = json.loads((tmp_path / TOKENIZER_CONFIG_FILE).read_text())["chat_template"]
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.template == own
    template.close()


def test_a_tokenizer_of_transformers_4_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / TOKENIZER_CONFIG_FILE
    path.write_bytes((DEMO_MODEL / TOKENIZER_CONFIG_FILE).read_bytes())
    assert widen_tokenizer_config(tmp_path) == ()
    assert path.read_bytes() == (DEMO_MODEL / TOKENIZER_CONFIG_FILE).read_bytes()
    path.unlink()
    assert widen_tokenizer_config(tmp_path) == ()


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / TOKENIZER_CONFIG_FILE).write_text("[]")
    with pytest.raises(InputError, match="tokenizer_config"):
        widen_tokenizer_config(tmp_path)
