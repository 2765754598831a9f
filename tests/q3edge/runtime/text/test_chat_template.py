"""Bad input 16: an untrusted chat template ends in an error within about two seconds, whatever it does."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from q3edge.errors import InputError, Q3EdgeError, UsageError
from q3edge.machine import worker_process
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message, Tool, ToolCall
from tests.helpers.runtime import CHAT_TEMPLATE, TOOL_TEMPLATE

HELLO: list[Message] = [{"role": "user", "content": "hello"}]


def render(template: str, messages: list[Message] = HELLO, thinking: bool | None = None) -> str:
    chat = ChatTemplate(template, "template", {"bos_token": "<s>"})
    try:
        return chat.render(messages, thinking=thinking)
    finally:
        chat.close()


LOOPS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set n = namespace(x='a') %}{% for i in range(99999) %}{% set n.x = (n.x ~ 'a')[-9999:] %}"
    "{% for j in range(999) %}{{ n.x | sort | join | length }}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("template", LOOPS)
def test_endless_template_is_stopped(template: str) -> None:
    with pytest.raises(InputError, match=r"^template: the chat template (took more than 2 s|fails)"):
        render(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 'a' * 10 ** 10 }}", "needed more than 512 MiB"),
        ("{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}", "wrote more than 16777216 characters"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError|UndefinedError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% include 'x' %}", "TypeError: no loader"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ range(10 ** 9) }}", "OverflowError"),
    ],
)
def test_bad_template_is_an_input_error_in_one_line(template: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^template: the chat template fails: .*({message})") as caught:
        render(template)
    assert str(caught.value).isprintable()


def test_a_template_that_refuses_the_messages_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"refuses these messages: no  .31m such role$"):
        render("{{ raise_exception('no \\x1b[31m such role') }}")


def test_the_worker_survives_errors_and_is_replaced_after_a_kill() -> None:
    chat = ChatTemplate("{{ messages[0].content }}{% if messages[1] %}{{ 1 // 0 }}{% endif %}", "template")
    assert chat.render(HELLO) == "hello"
    worker = chat._worker.process
    with pytest.raises(InputError, match="ZeroDivisionError"):
        chat.render(HELLO * 2)
    assert chat.render(HELLO) == "hello"
    assert chat._worker.process is worker
    assert worker is not None
    worker._process.kill()
    with pytest.raises(InputError, match="ended its process"):
        chat.render(HELLO)
    assert chat.render(HELLO) == "hello"
    chat.close()


KEEPS_STATE = (
    "{{ seen | default('new') }} {% set seen = 'old' %}"
    "{% set n = namespace(count=0) %}{% for m in messages %}{% set n.count = n.count + 1 %}{% endfor %}{{ n.count }} "
    "{% macro tick(box=namespace(count=0), row=cycler('a', 'b')) %}"
    "{% set box.count = box.count + 1 %}{{ box.count ~ row.next() }}{% endmacro %}{{ tick() }} "
    "{% if messages[1] %}{% set range = 'mine' %}{% set tick = none %}{% endif %}"
    "{{ range is string }} {{ tick is none }} {{ enable_thinking is defined }}"
)


def test_renders_of_one_worker_do_not_see_each_other() -> None:
    chat = ChatTemplate(KEEPS_STATE, "template")
    worker = chat._worker.process
    for _ in range(2):
        assert chat.render(HELLO * 2, thinking=True) == "new 2 1a True True True"
        assert chat.render(HELLO) == "new 1 1a False False False"
    assert chat._worker.process is worker
    chat.close()


def test_a_template_that_does_not_compile_is_told_every_time() -> None:
    chat = ChatTemplate("{% if %}", "template")
    worker = chat._worker.process
    for _ in range(2):
        with pytest.raises(InputError, match="TemplateSyntaxError"):
            chat.render(HELLO)
    assert chat._worker.process is worker
    chat.close()


def test_the_worker_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    chat = ChatTemplate("", "template")
    chat.render(HELLO)
    assert chat._worker.process is not None
    pid = chat._worker.process._process.pid
    environment = Path(f"/proc/{pid}/environ")
    if not environment.exists():
        pytest.skip("this system has no /proc")
    assert b"SECRET_TOKEN" not in environment.read_bytes()
    chat.close()


TOOLS: list[Tool] = [
    {
        "type": "function",
        "function": {"name": "look", "description": "Sieht <nach> \u4f60", "parameters": {"type": "object"}},
    },
    {"type": "function", "function": {"parameters": {}, "name": "run"}},
]
PARITY = [
    CHAT_TEMPLATE,
    "{% for m in messages %}\n  {% if loop.first %}\n{{ bos_token }}\n  {% endif %}\n{{ m | tojson }}\n{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
    "{{ tools is none }} {{ enable_thinking is defined }} {{ add_generation_prompt }} {{ '<&\u00e9' | tojson }}",
    "{{ {'b': [1, 2], 'a': none} | tojson(indent=2, sort_keys=true) }}",
]


@pytest.mark.parametrize("template", PARITY)
@pytest.mark.parametrize("thinking", [None, True, False])
def test_text_equals_transformers(template: str, thinking: bool | None) -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Be <brief> & exact."},
        {"role": "user", "content": "你好 🎉\n"},
        {"role": "assistant", "content": "<think>\nx\n</think>\n\ny"},
        {"role": "user", "content": "again"},
    ]
    extra = {} if thinking is None else {"enable_thinking": thinking}
    expected, _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=True, bos_token="<s>", **extra
    )
    assert render(template, messages, thinking) == expected[0]


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("tools", [None, [], TOOLS])
def test_tools_and_calls_equal_transformers(tools: list[Tool] | None, prompted: bool) -> None:
    calls: list[ToolCall] = [
        {
            "id": "1",
            "type": "function",
            "function": {"name": "look", "arguments": {"place": '<北京> & "x"', "n": [1.5, None]}},
        },
        {"function": {"name": "look", "arguments": '{"place":  "Köln"}'}},
    ]
    messages: list[Message] = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "reasoning_content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "content": '{"t": 3}', "tool_call_id": "1", "name": "look"},
        {"role": "assistant", "content": "There."},
    ]
    expected, _ = render_jinja_template(
        [messages], tools=tools, chat_template=TOOL_TEMPLATE, add_generation_prompt=prompted
    )
    chat = ChatTemplate(TOOL_TEMPLATE, "template")
    assert chat.render(messages, tools=tools, add_generation_prompt=prompted) == expected[0]
    chat.close()


def test_parts_are_lines_and_what_is_missing_is_empty() -> None:
    parts: list[Message] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning_content": None, "tool_calls": []},
    ]
    found = render("{% for m in messages %}{{ m | tojson }}{% endfor %}", parts)
    assert found == '{"role": "user", "content": "a\\nb"}{"role": "assistant", "content": "", "tool_calls": []}'


def test_templates_that_both_refuse() -> None:
    with pytest.raises(TemplateError):
        render_jinja_template([HELLO], chat_template="{{ x.y }}")
    with pytest.raises(Q3EdgeError):
        render("{{ x.y }}")


def test_where_a_template_is_found(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": {"content": "<e>"}}))
    assert ChatTemplate.load(tmp_path) is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d{{ eos_token }}"}]
    config.write_text(json.dumps({"chat_template": named, "eos_token": {"content": "<e>"}}))
    found = ChatTemplate.load(tmp_path)
    assert found is not None
    assert (found.render(HELLO), found.source) == ("d<e>", str(config))
    found.close()
    (tmp_path / "chat_template.jinja").write_text("own file")
    found = ChatTemplate.load(tmp_path)
    assert found is not None
    assert found.render(HELLO) == "own file"
    found.close()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"chat_template.jinja, line 1: not UTF-8"):
        ChatTemplate.load(tmp_path)


def test_r1_a_signal_inside_start_leaves_no_timer_and_no_reply_for_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[threading.Timer] = []

    class Interrupted(threading.Timer):
        def start(self) -> None:
            super().start()
            started.append(self)
            raise KeyboardInterrupt

    chat = ChatTemplate("{{ messages[0].content }}", "template")
    assert chat.render(HELLO) == "hello"
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Timer", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat.render(HELLO)
    assert started[0].daemon
    assert started[0].finished.is_set()
    assert chat.render(HELLO) == "hello"
    chat.close()


def test_r1_a_request_stopped_before_its_reply_was_read_does_not_answer_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = ChatTemplate("{{ messages[0].content }}", "template")
    assert chat.render(HELLO) == "hello"
    with monkeypatch.context() as patched:
        patched.setattr(worker_process, "_MAX_REPLY", Interrupting())
        with pytest.raises(KeyboardInterrupt):
            chat.render(HELLO)
    assert chat.render([{"role": "user", "content": "another"}]) == "another"
    chat.close()


class Interrupting:
    """Number of bytes that cannot be read: a signal comes instead."""

    def __index__(self) -> int:
        raise KeyboardInterrupt
