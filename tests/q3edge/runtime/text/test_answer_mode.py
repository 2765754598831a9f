"""Whether an answer will think, and that its settings go by it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from q3edge.runtime.model import Model
from q3edge.runtime.text.answer_mode import will_think
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message
from tests.helpers.runtime import CHAT_TEMPLATE, seal

PLAIN = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>a\n"
NEVER, ALWAYS = PLAIN + "{% endif %}", PLAIN + "<think>\n{% endif %}"
PICKY = "{% if messages|length < 2 %}{{ raise_exception('two') }}{% endif %}" + NEVER


def said(*texts: str) -> list[Message]:
    roles: tuple[Literal["system", "user", "assistant"], ...] = ("system", "user", "assistant", "user")
    return [{"role": role, "content": text} for role, text in zip(roles, texts)]


@pytest.mark.parametrize(
    ("template", "thinking", "messages", "expected"),
    [
        (CHAT_TEMPLATE, None, said("", "a"), True),
        (CHAT_TEMPLATE, True, said("", "a"), True),
        (CHAT_TEMPLATE, False, said("", "a /think"), False),
        (CHAT_TEMPLATE, None, said("", "a /no_think"), False),
        (CHAT_TEMPLATE, True, said("/no_think", "a"), False),
        (CHAT_TEMPLATE, True, said("/no_think", "a\n/think."), True),
        (CHAT_TEMPLATE, None, said("", "/think /no_think", "", "b"), False),
        (CHAT_TEMPLATE, None, said("", "/no_think", "", "b /no_think or /think"), True),
        (CHAT_TEMPLATE, None, said("", "a", "/no_think", "b"), True),  # the assistant's own words
        (CHAT_TEMPLATE, None, said("", "see a/no_think and /no_thinking"), True),
        (NEVER, None, said("", "a /think"), False),
        (NEVER, True, said("", "a"), False),
        (ALWAYS, None, said("", "a /no_think"), True),
        (ALWAYS, False, said("", "a"), True),
        (PICKY, None, said("", "a"), False),
    ],
)
def test_it_is_foreseen(
    model: Model, template: str, thinking: bool | None, messages: list[Message], expected: bool
) -> None:
    with closing(ChatTemplate(template, "template")) as own:
        ids = ChatEncoder(model.tokenizer, own, "here").encode(messages, thinking=thinking)
        assert will_think(model.tokenizer, own, ids, messages) is expected


def test_settings_go_by_it_a_budget_of_0_does_not_think_and_what_is_given_holds(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "generation_config.json").unlink()
    seal(copy)
    with Model.open(copy, threads=1) as model:
        for thinking, temperature in ((None, 0.6), (True, 0.6), (False, 0.7)):
            found = model.chat("a", thinking=thinking, max_new_tokens=1)
            assert found.settings.temperature == found.to_json()["settings"]["temperature"] == temperature
        assert model.chat("a", thinking_budget=0, max_new_tokens=1).settings.top_p == 0.8
        assert model.chat("a", thinking_budget=1, max_new_tokens=1).settings.top_p == 0.95
        chosen = model.chat("a", {"max_new_tokens": 1, "temperature": 0}, top_p=0.5).settings
        assert (chosen.temperature, chosen.top_p, chosen.top_k) == (0, 0.5, 20)
        assert model.generate("a", max_new_tokens=1).settings.temperature == 0
