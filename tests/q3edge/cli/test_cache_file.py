"""`--cache-file`: the next command starts where the last one ended, or says why it does not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.helpers.runtime import Answer

GREEDY = ("--temperature", "0", "--threads", "1")


def test_a_cache_file_spares_the_next_run_what_both_have_in_common(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "talk"
    options = (*GREEDY, "--no-think", "--cache-file", str(path))
    code, out, err = answer("run", "What is 3 + 4?", *options)
    assert (code, out) == (0, "7\n")
    assert "tokens saved to" in err
    assert "restored" not in err
    first = path.read_bytes()
    code, out, err = answer("run", "What is 3 + 5?", *options, "--cache-file-ro")
    assert (code, out) == (0, "8\n")
    assert re.search(r"\[\d+ tokens restored from .*talk in ", err)
    assert re.search(r"prompt tokens, \d+ of them cached", err)
    assert path.read_bytes() == first
    assert answer("run", "What is 3 + 5?", *options)[:2] == (0, "8\n")
    assert path.read_bytes() != first


def test_a_conversation_leaves_its_text_in_the_cache_file(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "talk"
    options = ("chat", *GREEDY, "--no-think", "--cache-file", str(path))
    assert answer(*options)[:2] == (0, "")
    assert not path.exists()
    code, out, err = answer(*options, stdin=b"What is 3 + 4?\n")
    assert (code, out) == (0, "7\n")
    assert "tokens saved to" in err
    _, out, err = answer(*options, stdin=b"What is 3 + 5?\n")
    assert out == "8\n"
    assert "tokens restored from" in err
    changed = path.stat().st_mtime_ns
    assert "saved" not in answer(*options)[2]
    assert path.stat().st_mtime_ns == changed


def test_a_cache_file_that_cannot_be_used_stays_as_it_is(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "talk"
    path.write_bytes(b"a letter")
    code, out, err = answer("run", "Hello", "--cache-file", str(path))
    assert (code, out) == (3, "")
    assert err == (
        f"q3edge: {path}: no file of arrays that q3edge wrote; save the prefix again, or give another file\n"
    )
    assert path.read_bytes() == b"a letter"
    missing = str(tmp_path / "no")
    assert answer("run", "Hello", "--cache-file", missing, "--cache-file-ro")[0] == 3
    assert answer("run", "Hello", "--cache-file-ro")[0] == 2
    assert os.listdir(tmp_path) == ["talk"]
