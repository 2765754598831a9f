"""Damaged tokenizers and chat templates: refused, or used as their own libraries use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from q3edge.errors import Q3EdgeError
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.fuzz.cases import check_refusals, counts, damaged_bytes, damaged_json, json_bytes, outcome
from tests.helpers.runtime import CHAT_TEMPLATE, write_artifact

TEXT = "Why is the sky blue? 12 + 7 = 19. é\n<|im_end|>"
PIECES = (
    "{% for x in range(10**9) %}",
    "{{ messages.__class__ }}",
    "{%",
    "}}",
    "{{ 'a' * 10**9 }}",
    "{% endfor %}",
    "{{ x() }}",
    "{% include 'x' %}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ raise_exception('no') }}",
)


@pytest.mark.slow
def test_tokenizers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A tokenizer that is read gives ids of its vocabulary, and for markup those of the tokenizers library."""
    folder = write_artifact(tmp_path / "artifact")
    raw = json.loads((folder / "tokenizer.json").read_bytes())
    raw["model"]["merges"] = raw["model"]["merges"][:20]
    refused, path = 0, folder / "tokenizer.json"
    for index, source in counts("tokenizer", 60, 1000):
        path.write_bytes(json_bytes(damaged_json(raw, source), source))
        case = f"tokenizer:{index}"

        def read() -> tuple[list[int], list[int], str]:
            found = Tokenizer.load(folder, 320)
            return found.encode_text(TEXT), found.encode_markup(TEXT), found.decode(found.encode_text(TEXT))

        found = outcome(case, read)
        if isinstance(found, Q3EdgeError):
            refused += 1
            continue
        theirs = tokenizers.Tokenizer.from_file(str(path))
        theirs.no_truncation()
        theirs.no_padding()
        assert found[1] == theirs.encode(TEXT, add_special_tokens=True).ids, case
        assert all(0 <= token < 320 for token in found[0]), case
    check_refusals(refused)
    capfd.readouterr()  # the library prints its panics


@pytest.mark.slow
def test_templates(tmp_path: Path) -> None:
    """A template ends in a text or a refusal, and its process with it."""
    folder = write_artifact(tmp_path / "artifact")
    refused = 0
    for index, source in counts("template", 25, 1000):
        content = CHAT_TEMPLATE
        if source.random() < 0.6:
            at = source.randrange(len(content))
            content = content[:at] + source.choice(PIECES) + content[at:]
        damaged = content.encode() if source.random() < 0.5 else damaged_bytes(content.encode(), source)
        (folder / "chat_template.jinja").write_bytes(damaged)

        def render() -> str:
            template = ChatTemplate.load(folder)
            assert template is not None
            try:
                return template.render([{"role": "user", "content": "Hello"}], thinking=False)
            finally:
                template.close()

        found = outcome(f"template:{index}", render)
        refused += isinstance(found, Q3EdgeError)
        assert isinstance(found, str | Q3EdgeError), index
    check_refusals(refused)
