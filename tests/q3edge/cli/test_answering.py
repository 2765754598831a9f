"""`run`: prompts from anywhere, settings, chat templates, standard streams of every kind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from q3edge.cli.main import cli, main
from q3edge.cli.standard_streams import MAX_INPUT
from q3edge.runtime.generation.setting_table import SETTINGS
from q3edge.runtime.model import Model
from tests.helpers.runtime import Answer, write_artifact

GREEDY = ("--temperature", "0", "--threads", "1")


def test_u4_run_without_a_prompt_reads_what_is_piped(answer: Answer) -> None:
    code, out, _ = answer("run", *GREEDY, "--no-think", stdin=b"What is 3 + 4?\r\n")
    assert (code, out) == (0, "7\n")
    assert answer("run", "-", *GREEDY, "--no-think", stdin="\ufeffWhat is 3 + 4?".encode())[:2] == (0, "7\n")


def test_u4_run_without_a_prompt_says_what_to_do(answer: Answer, demo_folder: Path) -> None:
    code, out, err = answer("run", terminal=True)
    assert (code, out) == (2, "")
    assert (
        f'no prompt: q3edge run {demo_folder} "Why is the sky blue?", or q3edge chat {demo_folder} to talk to it' in err
    )
    assert answer("run", stdin=b" \n")[0::2] == (
        2, 'q3edge: standard input is empty; give a prompt there, or as in q3edge run DIR "Why is the sky blue?"\n',
    )  # fmt: skip


def test_l9_standard_input_is_utf8_or_refused(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def record(_self: Model, messages: object, **_named: Any) -> None:
        asked.append(messages)
        raise AssertionError

    monkeypatch.setattr(Model, "stream", record)
    answer("run", stdin="caf\u00e9 \u4e2d\u6587\n".encode())
    assert asked[0][-1]["content"] == "caf\u00e9 \u4e2d\u6587"
    code, out, err = answer("run", stdin="ok\ncaf\u00e9".encode("latin-1"))
    assert (code, out) == (2, "")
    assert "standard input is not UTF-8 (byte 6, line 2); convert it to UTF-8" in err


def test_l9_answers_are_utf8_whatever_the_console_s_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))

    @click.command()
    def speak() -> None:
        click.echo("\u4e2d\u6587 \udc80")

    monkeypatch.setitem(cli.commands, "speak", speak)
    assert main(["speak"]) == 0
    assert written.getvalue() == "\u4e2d\u6587 \\udc80\n".encode()


def test_r14_a_prompt_without_end_is_refused(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_INPUT == 64 << 20
    monkeypatch.setattr("q3edge.cli.standard_streams.MAX_INPUT", 1 << 20)
    code, _, err = answer("run", stdin=b"x" * (1 << 20) + b"y")
    assert code == 2
    assert "standard input has more than 1 MiB" in err


def test_r14_closed_stdin_is_told(answer: Answer) -> None:
    assert answer("run", stdin=None)[::2] == (
        2, "q3edge: standard input is closed; give the prompt as an argument\n"
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">&-", 4, "q3edge: standard output is closed; redirect it to a file or to /dev/null\n"),
        (">/dev/full", 4, "q3edge: no space left on the disk; make room and run it again\n"),
        ("2>&-", 0, ""),
    ],
)
def test_r14_and_u18_standard_streams_that_are_closed_or_full(redirection: str, code: int, message: str) -> None:
    command = f"{sys.executable} -m q3edge --help {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize("prompt", ["-5", "-tell me", "--what is it"])
def test_l22_a_prompt_that_begins_with_a_dash_gets_a_hint(answer: Answer, prompt: str) -> None:
    code, out, err = answer("run", prompt)
    assert (code, out) == (2, "")
    assert "a prompt that begins with a dash stands behind --, at the end: q3edge run DIR -- '-5'" in err
    assert answer("run", *GREEDY, "--raw", "--max-new-tokens", "2", "--", prompt)[0] == 0


@pytest.mark.parametrize(
    ("typo", "meant"), [("--temprature", "--temperature"), ("--max-new-token", "--max-new-tokens")]
)
def test_l22_a_misspelt_option_gets_one_hint(answer: Answer, typo: str, meant: str) -> None:
    code, out, err = answer("run", typo, "3", "hi")
    assert (code, out) == (2, "")
    assert "Did you mean" in err
    assert meant in err
    assert "begins with a dash" not in err


def test_l22_a_prompt_of_several_words_gets_a_hint(answer: Answer) -> None:
    code, _, err = answer("run", "What", "is", "it?")
    assert code == 2
    assert "a prompt of several words stands in quotes: q3edge run DIR 'Why is the sky blue?'" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("arguments", "code"), [(("list", "/none"), 3), (("bogus",), 2), (("list",), 0)])
def test_r14_a_full_stderr_changes_no_exit_code(arguments: tuple[str, ...], code: int, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "q3edge", *arguments], stderr=full, cwd=tmp_path, check=False)
    assert done.returncode == code


def test_l23_the_help_tells_the_limit_that_holds(answer: Answer, demo_folder: Path) -> None:
    main(["run", "--help"])
    with Model.open(demo_folder, threads=1) as model:
        assert model.defaults.max_new_tokens == 1024
    assert "1024 without one" in SETTINGS["max_new_tokens"].description
    assert not json.loads((demo_folder / "generation_config.json").read_text()).get("max_new_tokens")


def test_l11_thinking_without_an_answer_is_no_success(answer: Answer) -> None:
    for arguments in ((), ("--json",)):
        code, out, err = answer("run", "What is 3 + 4?", *GREEDY, "--think", "--max-new-tokens", "3", *arguments)
        assert code == 2
        assert "q3edge: no answer: the limit of tokens ended the thinking before any answer; allow more" in err
        assert not out.strip() or json.loads(out)["answer"] == ""


def test_a_thinking_budget_ends_the_thinking_with_an_answer(answer: Answer) -> None:
    question = "What is 3 + 4?"
    code, out, err = answer("run", question, *GREEDY, "--think", "--thinking-budget", "2", "--json")
    found = json.loads(out)
    assert (code, [notice["code"] for notice in found["notices"]]) == (0, ["thinking-stopped"])
    assert "now.\n</think>\n\n" + found["answer"] == found["text"][-len(found["answer"]) - 15 :]
    assert found["stats"]["forced_tokens"] > 0
    assert "thinking stopped after 2 tokens, its budget" in err
    off = answer("run", question, *GREEDY, "--no-think")
    assert answer("run", question, *GREEDY, "--think", "--thinking-budget", "0")[:2] == off[:2] == (0, "7\n")
    whole = answer("run", question, *GREEDY, "--think", "--json")[1]
    ample = answer("run", question, *GREEDY, "--think", "--thinking-budget", "900", "--json")[1]
    assert json.loads(ample)["token_ids"] == json.loads(whole)["token_ids"]
    code, _, err = answer("run", question, "--thinking-budget", "-1")
    assert (code, "thinking_budget = -1: expected 0 or more" in err) == (2, True)


def test_the_settings_in_effect_are_told(answer: Answer) -> None:
    flags = ("--threads", "1", "--no-think", "--min-new-tokens", "4", "--max-new-tokens", "4")
    code, out, _ = answer("run", "What is 3 + 4?", *flags, "--seed", "3", "--json")
    found = json.loads(out)
    used = {name: found["settings"][name] for name in ("temperature", "top_k", "top_p", "seed", "min_new_tokens")}
    assert used == {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "seed": 3, "min_new_tokens": 4}  # the file's
    assert (code, len(found["token_ids"])) == (0, 4)
    code, _, err = answer("run", "What is 3 + 4?", "--max-repeats", "1")
    assert (code, "max_repeats = 1: expected 0 (off), or at least 2" in err) == (2, True)


def test_l24_system_prompt_and_settings_reach_the_model(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "format").write_text("{}")
    found: dict[str, Any] = {}

    def record(_self: Model, messages: object, **named: Any) -> None:
        found.update(named, messages=messages)
        raise AssertionError

    monkeypatch.setattr(Model, "stream", record)
    given = {"whole": ["7"], "number": ["0.5"], "texts": ["a", "b"], "text": ["{}"]}
    flags = {
        setting.flag: [str(tmp_path / "format")] if setting.from_file else given[setting.kind]
        for setting in SETTINGS.values()
        if setting.flag
    }
    answer("run", "Hi", "--system", "Be brief.", *(part for flag, values in flags.items() for value in values
                                                  for part in (flag, value)))  # fmt: skip
    assert found.pop("messages") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert found.pop("thinking") is None
    expected = {"whole": 7, "number": 0.5, "texts": ("a", "b"), "text": "{}", "schema": "{}"}
    assert found == {name: expected[setting.kind] for name, setting in SETTINGS.items() if setting.flag}
    assert answer("run", "Hi", "--raw", "--system", "x")[0] == 2


def test_l24_a_stop_string_and_a_setting_out_of_range(answer: Answer) -> None:
    whole = answer("run", "What is 12 + 30?", *GREEDY, "--no-think")[1]
    assert whole.startswith("42")
    assert answer("run", "What is 12 + 30?", *GREEDY, "--no-think", "--stop", "2")[1] == "4\n"
    code, out, err = answer("run", "Hi", "--top-p", "1e400")
    assert (code, out) == (2, "")
    assert "top_p = inf: expected above 0 and at most 1 (off)" in err


def test_l7_notices_of_the_checkpoint_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_artifact(tmp_path / "artifact")
    main(["run", str(folder), "the cat", "--max-new-tokens", "1", "--temperature", "0", "--threads", "1"])
    assert "note: answers end at <|im_end|> too, which only tokenizer_config.json calls" in capfd.readouterr().err


OTHER_QUESTION = (  # a template that asks what it likes
    "{{ '<|im_start|>user\\nWhat is 3 + 4?<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
)


def test_a_chat_template_s_file_takes_the_place_of_the_model_s_own(answer: Answer, tmp_path: Path) -> None:
    own = tmp_path / "own template.jinja"
    own.write_text(OTHER_QUESTION)
    assert answer("run", "Hello.", *GREEDY, "--chat-template", str(own))[:2] == (0, "7\n")
    assert answer("chat", *GREEDY, "--chat-template", str(own), stdin=b"Hello.\n")[:2] == (0, "7\n")
    own.write_text("{{ raise_exception('only in pairs') }}")
    code, out, err = answer("run", "Hello.", "--chat-template", str(own))
    assert (code, out) == (2, "")
    assert f"{own}: the chat template refuses these messages: only in pairs" in err


@pytest.mark.parametrize(
    ("content", "code", "problem"),
    [
        (b"{% while %}", 3, "own.jinja: the chat template fails: "),
        (b"{% for i in range(10**9) %}{% endfor %}", 3, "own.jinja: the chat template fails: OverflowError"),
        (b"\xff", 3, "own.jinja, line 1: not UTF-8 text"),
        (b" " * ((1 << 20) + 1), 3, "own.jinja: cannot be read (larger than 1048576 bytes); expected a chat template"),
        (None, 3, "own.jinja: cannot be read (No such file or directory); expected a chat template"),
    ],
    ids=["syntax", "endless", "not UTF-8", "too large", "missing"],
)
def test_a_chat_template_s_file_that_is_unfit_is_refused(
    answer: Answer, tmp_path: Path, content: bytes | None, code: int, problem: str
) -> None:
    own = tmp_path / "own.jinja"
    if content is not None:
        own.write_bytes(content)
    found = answer("run", "Hello.", "--chat-template", str(own))
    assert found[:2] == (code, "")
    assert problem in found[2]
    assert found[2].count("\n") == 1
    assert answer("run", "Hello.", "--raw", "--chat-template", str(own))[0] == 2


def test_run_answers_in_a_format_from_a_file(answer: Answer, demo_folder: Path, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema | {"additionalProperties": False}))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "grammar.lark").write_text('start: "4" NUMBER\nNUMBER: /[0-9]/')
    asked, schema_file = ("What is 12 + 30?", *GREEDY, "--no-think"), str(tmp_path / "schema.json")
    command = [sys.executable, "-m", "q3edge", "run", str(demo_folder), *asked, "--schema", schema_file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() == {"sum"}
    assert answer("run", *asked, "--regex", "(yes|no)")[1] in ("yes\n", "no\n")
    assert answer("run", *asked, "--grammar", str(tmp_path / "grammar.lark"))[:2] == (0, "42\n")
    for code, says, flags in (
        (2, "schema is not JSON", ("--schema", str(tmp_path / "broken.json"))),
        (2, "give one of them", ("--schema", schema_file, "--regex", "a")),
        (2, "regex: unclosed character class", ("--regex", "[")),
        (3, "none.json: cannot be read", ("--schema", str(tmp_path / "none.json"))),
    ):
        found, out, err = answer("run", *asked, *flags)
        assert (found, out, len(err.splitlines())) == (code, "", 1)
        assert says in err
