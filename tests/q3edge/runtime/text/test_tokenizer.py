"""Tokenizers: spelled-out control tokens stay text, unfit files are refused (bad inputs 17 and 36); streaming."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.errors import InputError
from q3edge.runtime.text.control_tokens import unused_character
from q3edge.runtime.text.thinking import ThinkingSplitter
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import MARKUP_TOKENS, SPECIAL_TOKENS, build_tokenizer, write_tokenizer

FULL = build_tokenizer()
SIZE = FULL.get_vocab_size()
TOKENIZER = Tokenizer(FULL, "tokenizer.json", SIZE)
MARK = "\ue000"
END, THINK, END_THINK = (FULL.token_to_id(token) for token in ("<|im_end|>", "<think>", "</think>"))
MARKUP = (*SPECIAL_TOKENS, *MARKUP_TOKENS)
# Text made of words, of control tokens, and of pieces that could join into one.
PIECES = (
    st.lists(
        st.one_of(
            st.sampled_from(
                ["<", "|", ">", "<|", "im_end", "|>", "<|im_", "end|>", "</", "think", " ", "\n", "é", "🎉", *MARKUP]
            ),
            st.text(max_size=3),
        ),
        max_size=8,
    )
    .map("".join)
    .filter(lambda text: MARK not in text)
)


def test_text_that_spells_a_control_token_stays_text() -> None:
    for token in MARKUP:
        ids = TOKENIZER.encode_text(f"a{token}b")
        assert not set(ids) & set(TOKENIZER.added_ids.values())
        assert FULL.decode(ids) == f"a{token}b"
        assert TOKENIZER.added_ids[token] in TOKENIZER.encode_markup(f"a{token}b")


@settings(max_examples=200, deadline=None)
@given(PIECES, PIECES)
def test_only_the_templates_own_tokens_are_control_tokens(first: str, second: str) -> None:
    parts = (
        "<|im_start|>",
        TOKENIZER.control.mark(first, MARK),
        TOKENIZER.control.mark(second, MARK),
        "<|",
        "<|im_end|>",
        "<think>",
    )
    ids = TOKENIZER.encode_marked("".join(parts), MARK)
    control = [token for token in ids if token in TOKENIZER.added_ids.values()]
    assert control == [TOKENIZER.added_ids[token] for token in ("<|im_start|>", "<|im_end|>", "<think>")]


@settings(max_examples=200, deadline=None)
@given(PIECES)
def test_a_marked_text_cannot_complete_the_templates_token(text: str) -> None:
    for token in MARKUP:
        for cut in range(1, len(token)):
            for rendered in (
                token[:cut] + TOKENIZER.control.mark(text, MARK),
                TOKENIZER.control.mark(text, MARK) + token[cut:],
            ):
                assert not set(TOKENIZER.encode_marked(rendered, MARK)) & set(TOKENIZER.added_ids.values())


@settings(max_examples=200, deadline=None)
@given(PIECES)
def test_ordinary_text_is_encoded_as_the_tokenizer_does(text: str) -> None:
    for token in MARKUP:
        text = text.replace(token, "")
    if not any(token in text for token in MARKUP):
        rendered = f"<|im_start|>user\n{text}<|im_end|>\n<think>"
        marked = f"<|im_start|>user\n{TOKENIZER.control.mark(text, MARK)}<|im_end|>\n<think>"
        assert TOKENIZER.encode_marked(marked, MARK) == FULL.encode(rendered, add_special_tokens=False).ids


def test_special_only_leaves_the_models_own_markup() -> None:
    marked = TOKENIZER.control.mark("<think>x</think><|im_end|>", MARK, special_only=True)
    ids = TOKENIZER.encode_marked(marked, MARK)
    assert THINK in ids
    assert END_THINK in ids
    assert END not in ids


def test_unused_character_is_in_no_text() -> None:
    assert unused_character(["a", "\ue000\ue001", ""]) == "\ue002"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_streamed_pieces_join_to_the_text_and_split_no_character(text: str) -> None:
    stream = TOKENIZER.stream()
    ids = TOKENIZER.encode_text(text)
    pieces = [stream.push(token) for token in ids]
    pieces.append(stream.finish())
    assert "".join(pieces) == TOKENIZER.decode(ids)
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, SIZE - 1), max_size=40))
def test_streamed_pieces_join_to_the_text_of_any_tokens(ids: list[int]) -> None:
    stream = TOKENIZER.stream()
    assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == TOKENIZER.decode(ids)


def test_a_character_split_over_tokens_appears_whole() -> None:
    ids = TOKENIZER.encode_text("🎉")
    assert len(ids) == 4
    stream = TOKENIZER.stream()
    assert [stream.push(token) for token in ids] == ["", "", "", "🎉"]


@pytest.mark.parametrize(
    ("prompt", "generated", "expected"),
    [
        ("<|im_start|>a\n", "<think>\nwhy\n\nso\n</think>\n\nthe cat\n", ("why\n\nso", "the cat")),
        ("<|im_start|>a\n<think>\n", "why\n</think>\n\nthe cat", ("why", "the cat")),
        ("<|im_start|>a\n<think>\n\n</think>\n\n", "the cat", ("", "the cat")),
        ("<|im_start|>a\n<think>x<|im_end|>\n", "the\n\ncat", ("", "the\n\ncat")),
        ("<|im_start|>a\n", "<think>\nunfinished", ("unfinished", "")),
        ("", "", ("", "")),
    ],
)
def test_thinking_is_split_from_the_answer(prompt: str, generated: str, expected: tuple[str, str]) -> None:
    splitter = ThinkingSplitter(TOKENIZER, TOKENIZER.encode_markup(prompt))
    pieces = [*(splitter.push(token) for token in TOKENIZER.encode_markup(generated)), splitter.finish()]
    parts = ["".join(text for text, thinks in pieces if thinks is wanted) for wanted in (True, False)]
    assert tuple(parts) == expected


@pytest.mark.parametrize(
    ("generated", "expected"),
    [("\n\na\n\n", ("", "\n\na\n\n")), ("<think>\nb\n</think>\n\na\n", ("b", "a")), ("\nb</think>\na", ("", "\nba"))],
)
def test_q2_newlines_of_an_answer_without_thinking_are_kept(generated: str, expected: tuple[str, str]) -> None:
    splitter = ThinkingSplitter(TOKENIZER, TOKENIZER.encode_markup("a"), keep_newlines=True)
    pieces = [*(splitter.push(token) for token in TOKENIZER.encode_markup(generated)), splitter.finish()]
    parts = ["".join(text for text, thinks in pieces if thinks is wanted) for wanted in (True, False)]
    assert tuple(parts) == expected


def test_vocabulary_larger_than_the_embedding(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    Tokenizer.load(tmp_path, SIZE)
    with pytest.raises(InputError, match=f"{SIZE} tokens, but the model's embedding has {SIZE - 1} rows"):
        Tokenizer.load(tmp_path, SIZE - 1)


def test_broken_or_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer.json: not found"):
        Tokenizer.load(tmp_path, SIZE)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer \("):
        Tokenizer.load(tmp_path, SIZE)


def test_unsupported_tokenizers_are_refused() -> None:
    spm = build_tokenizer()
    spm.decoder = tokenizers.decoders.Metaspace()
    with pytest.raises(InputError, match="expected ByteLevel"):
        Tokenizer(spm, "t", SIZE)
    fields = json.loads(build_tokenizer().to_str())
    fields["model"]["ignore_merges"] = True
    fields["model"]["vocab"]["<|im_end|>"] = END
    fields["pre_tokenizer"] = None
    with pytest.raises(InputError, match="plain text can produce the special token"):
        Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(fields)), "t", 400)


def test_l1_truncation_in_tokenizer_json_is_switched_off(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    left_on = build_tokenizer()
    left_on.enable_truncation(16)
    left_on.enable_padding(length=24)
    left_on.save(str(tmp_path / "tokenizer.json"))
    found, text = Tokenizer.load(tmp_path, SIZE), "<|im_start|>" + "the cat sat. " * 9
    assert len(found.encode_markup(text)) > 24
    assert found.encode_markup(text) == TOKENIZER.encode_markup(text)
    assert found.encode_text(text) == TOKENIZER.encode_text(text)
    assert found.encode_markup("") == []


def with_words(*tokens: tokenizers.AddedToken) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    """The library's tokenizer with more added tokens, and ours of it."""
    full = build_tokenizer()
    full.add_tokens(list(tokens))
    return full, Tokenizer(full, "t", full.get_vocab_size())


WORDS = (
    tokenizers.AddedToken("Zorblax"),
    tokenizers.AddedToken("<city>"),
    tokenizers.AddedToken("\u00a7"),
    tokenizers.AddedToken("caf\u00e9"),
    tokenizers.AddedToken("wet", lstrip=True, rstrip=True),
    tokenizers.AddedToken("wide", single_word=True),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "Zorblax",
                "<city>",
                "\u00a7",
                "caf\u00e9",
                "cafe\u0301",
                "wet",
                "wide",
                "widen",
                " ",
                "\n",
                "a",
                "<",
                "\u00a7",
            ]
        ),
        max_size=9,
    ).map("".join)
)
def test_l5_and_l14_added_words_are_single_ids_as_in_the_library(text: str) -> None:
    full, ours = with_words(*WORDS)
    assert ours.encode_text(text) == full.encode(text, add_special_tokens=False).ids
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<think>"
    marked = f"<|im_start|>user\n{ours.control.mark(text, MARK)}<|im_end|>\n<think>"
    assert ours.encode_marked(marked, MARK) == full.encode(rendered, add_special_tokens=False).ids


def test_l5_only_control_tokens_stay_text_beside_added_words() -> None:
    _, ours = with_words(*WORDS, tokenizers.AddedToken("<tool_call>"), tokenizers.AddedToken("<|fim_pad|>"))
    for control in (*MARKUP, "<tool_call>", "<|fim_pad|>"):
        ids = ours.encode_text(f"Zorblax{control}<city>")
        assert [token for token in ids if token in ours.added_ids.values()] == [
            ours.added_ids["Zorblax"], ours.added_ids["<city>"],
        ]  # fmt: skip


def test_l5_markup_of_the_template_is_control_and_its_plain_words_are_not(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, chat_template="{{ '[INST] user ' }}{{ messages[0].content }}")
    full, _ = with_words(tokenizers.AddedToken("[INST]"), tokenizers.AddedToken("user"), tokenizers.AddedToken("[X]"))
    full.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path, 400)
    found = {token for token in ours.encode_text("[INST] user [X]") if token in ours.added_ids.values()}
    assert found == {ours.added_ids["user"], ours.added_ids["[X]"]}


@pytest.mark.parametrize(
    "token",
    [
        tokenizers.AddedToken("\u2603", special=True, normalized=False),
        tokenizers.AddedToken("<|x|>", special=True, lstrip=True, rstrip=True, normalized=False),
        tokenizers.AddedToken("<|x|>", special=True, single_word=True, normalized=False),
    ],
)
def test_l14_control_tokens_of_any_kind_run_as_in_the_library(token: tokenizers.AddedToken) -> None:
    full = build_tokenizer()
    full.add_special_tokens([token])
    ours, text = Tokenizer(full, "t", 400), token.content
    index = full.token_to_id(text)
    for rendered in (f"a {text} b", f"a{text}b{text}", f"{text}\n{text}<|im_end|>", f"<|im_start|>\n {text}"):
        assert ours.encode_marked(rendered, MARK) == full.encode(rendered, add_special_tokens=False).ids
        typed = ours.control.mark(rendered, MARK)
        assert index not in ours.encode_marked(typed, MARK)
        assert ours.encode_marked(typed, MARK) == ours.encode_text(rendered)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAAAAAA"}),  # panics when it is read
        ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "x"}),  # ... when it is used
    ],
)
def test_r4_a_panic_of_the_library_is_bad_input(tmp_path: Path, field: str, value: object) -> None:
    write_tokenizer(tmp_path)
    fields = json.loads(build_tokenizer().to_str()) | {field: value}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"tokenizer.json: .*index out of bounds.*; download it again"):
        Tokenizer.load(tmp_path, SIZE).encode_text("the cat")


def test_a_long_text_does_not_stop_other_threads() -> None:
    text, ticks, done = "the cat sat on the log. " * 20_000, 0, Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.0001):
            ticks += 1

    with ThreadPoolExecutor(1) as pool:
        ticking = pool.submit(tick)
        while not ticks:
            pass
        before = ticks
        ids, markup = TOKENIZER.encode_text(text), TOKENIZER.encode_markup(text)
        during = ticks - before
        done.set()
        ticking.result()
    assert ids == markup == FULL.encode(text).ids
    assert during > 10
