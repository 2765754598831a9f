"""Formats that people and attackers write: what is fit works, everything else ends in one line, and soon."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from q3edge.errors import ResourceError, UsageError
from q3edge.runtime.generation import grammars as grammars_module
from q3edge.runtime.generation.answer_format import AnswerFormat
from q3edge.runtime.generation.grammars import Grammars
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import build_tokenizer

VOCABULARY = 304
TEXT_OF = Tokenizer(build_tokenizer(), "tokenizer", VOCABULARY).token_bytes()


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    found = Grammars(Tokenizer(build_tokenizer(), "tokenizer", VOCABULARY), VOCABULARY)
    yield found
    found.close()


def fits(grammars: Grammars, answer_format: AnswerFormat, text: str) -> bool:
    """Whether a text has the format."""
    matcher = grammars.matcher(answer_format)
    for token in grammars._tokenizer.encode_text(text):
        if not matcher.allowed()[token]:
            return False
        matcher.push(token)
    return matcher.whole


def schema(**fields: Any) -> AnswerFormat:
    return AnswerFormat("schema", json.dumps(fields))


PERSON = schema(
    type="object",
    properties={"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    required=["name"],
    additionalProperties=False,
)


@pytest.mark.parametrize(
    ("answer_format", "right", "wrong"),
    [
        (PERSON, ['{"name": "é", "age": 3}', '{"name":"a"}', '{\n  "name": "a"\n}'],
         ["{}", '{"name": ""}', '{"name": "a", "age": -1}', '{"name": "a", "x": 1}', '{"name": "a"', "[]",
          '{  "name": "a"}', '{\n\n"name": "a"}']),
        (schema(type="object"), ["{}", '{"a": [1, null]}'], ["[]", "3", '{"a"}']),
        (schema(), ["3", '"a"', "[]"], ["a"]),
        (schema(type="object", minProperties=1), ['{"a": 1}'], ["{}"]),
        (schema(enum=["red", 3]), ['"red"', "3"], ['"blue"', "4"]),
        (AnswerFormat("regex", r"\d+ (cats|dogs)"), ["12 cats", "1 dogs"], ["cats", "12 cows", "12 cats."]),
        (AnswerFormat("regex", "(a+)+b"), ["aaab"], ["aaa", "b"]),
        (AnswerFormat("grammar", 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/'), ["1+2", "3"],
         ["+", "1+", "1-2"]),
    ],
)  # fmt: skip
def test_texts_that_fit_and_texts_that_do_not(
    grammars: Grammars, answer_format: AnswerFormat, right: list[str], wrong: list[str]
) -> None:
    assert [text for text in right if not fits(grammars, answer_format, text)] == []
    assert [text for text in wrong if fits(grammars, answer_format, text)] == []


def nested(levels: int) -> AnswerFormat:
    return AnswerFormat("schema", '{"items":' * levels + "{}" + "}" * levels)


def chain(links: int) -> AnswerFormat:
    rules = "\n".join(f"a{link}: a{link + 1}" for link in range(links))
    return AnswerFormat("grammar", f'start: a0\n{rules}\na{links}: "x"')


@pytest.mark.parametrize(
    ("answer_format", "says"),
    [
        (AnswerFormat("regex", "[a"), "regex: unclosed character class"),
        (AnswerFormat("regex", "(?=a)b"), "look-around"),
        (AnswerFormat("regex", "(" * 5000 + "a" + ")" * 5000), "regex: "),
        (AnswerFormat("grammar", "start: thing"), 'unknown name: "thing"'),
        (AnswerFormat("grammar", ""), "grammar: Empty grammar"),
        (AnswerFormat("grammar", "start: " + "(" * 50_000), "too deeply nested"),
        (schema(type="object", propertyNames={}), r'keywords that are not supported: \["propertyNames"\]'),
        (schema(type="array", uniqueItems=True), "uniqueItems"),
        (schema(**{"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema(**{"if": {}}), '"if"'),
        (schema(type="string", format="address"), "Unknown format: address"),
        (schema(type="thing"), "Invalid type: thing"),
        (schema(enum=[]), "Unsatisfiable"),
        (schema(allOf=[{"type": "string"}, {"type": "integer"}]), "Unsatisfiable"),
        (schema(**{"$ref": "#"}), "no text fits it"),
        (schema(**{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}), "no text"),
        (schema(**{"$ref": "http://127.0.0.1:9/schema.json"}), "does not fetch"),
        (schema(**{"$ref": "file:///etc/passwd"}), "does not fetch"),
        (nested(1000), "recursion limit"),
    ],
)  # fmt: skip
def test_what_is_no_format_is_refused_by_name(grammars: Grammars, answer_format: AnswerFormat, says: str) -> None:
    for _ in range(2):  # by the child process, and from memory
        with pytest.raises(UsageError, match=says) as caught:
            grammars.matcher(answer_format)
        assert str(caught.value).startswith(f"{answer_format.kind}: ")
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("answer_format", "says"),
    [
        (schema(type="integer", multipleOf=2_999_730), "took more than"),
        (schema(allOf=[{"type": "string", "pattern": f"^.*{i}.*$"} for i in range(1000)]), "took more than"),
        (chain(9000), "ended its process"),
    ],
)  # fmt: skip
def test_what_computes_for_ever_or_overflows_a_stack_ends_in_the_child(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, answer_format: AnswerFormat, says: str
) -> None:
    monkeypatch.setattr(grammars_module, "COMPILE_SECONDS", 1.0 if says == "took more than" else 60.0)
    with pytest.raises(UsageError, match=f"compiling it {says}"):
        grammars.matcher(answer_format)
    assert fits(grammars, AnswerFormat("regex", "ab"), "ab")  # with another process


@pytest.mark.parametrize(
    "answer_format",
    [
        AnswerFormat("regex", "((a{1,1000}){1,1000}){1,1000}"),
        AnswerFormat("regex", "(.*a.{200}){30}"),
        AnswerFormat("regex", r"(\w{1,50}\W{1,50}){1,1000}"),
        AnswerFormat("regex", "x{20000}"),
        schema(type="string", maxLength=10**9),
        schema(type="array", items={"type": "integer"}, minItems=10**5),
        schema(enum=[f"value {i}" for i in range(5000)]),
        AnswerFormat("grammar", 'start: e\ne: e e | "a" |'),
    ],
)
def test_hostile_formats_are_answered_or_refused(grammars: Grammars, answer_format: AnswerFormat) -> None:
    with suppress(UsageError):
        matcher = grammars.matcher(answer_format)
        for step in range(60):
            tokens = matcher.allowed().nonzero()[0]
            if not len(tokens):
                break
            matcher.push(int(tokens[step * 7919 % len(tokens)]))


SMALL = st.integers(0, 4)
SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, type=st.just("string"), minLength=SMALL, maxLength=st.integers(4, 9)),
    st.builds(dict, type=st.just("integer"), minimum=st.integers(-50, 5), maximum=st.integers(5, 500)),
    st.builds(dict, type=st.sampled_from(["boolean", "null"])),
    st.builds(dict, enum=st.lists(st.sampled_from([1, "a", None, 2.5, "é", [True]]), min_size=1, max_size=3)),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(dict, type=st.just("array"), items=inner, minItems=SMALL, maxItems=st.integers(4, 6)),
        st.builds(dict, anyOf=st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda properties, count: {
                "type": "object", "properties": properties, "required": sorted(properties)[:count],
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from("abcé"), inner, max_size=3),
            SMALL,
        ),
    ),
    max_leaves=6,
)  # fmt: skip


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a JSON value is one of a schema of these."""
    if "anyOf" in schema:
        return any(valid(value, inner) for inner in schema["anyOf"])
    if "enum" in schema:
        return value in [each for each in schema["enum"] if type(each) is type(value)]
    match schema["type"]:
        case "string":
            return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "array":
            sized = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
            return sized and all(valid(each, schema["items"]) for each in value)
        case "object":
            named = isinstance(value, dict) and schema["properties"].keys() >= value.keys() >= set(schema["required"])
            return named and all(valid(each, schema["properties"][name]) for name, each in value.items())
    return value is None if schema["type"] == "null" else isinstance(value, bool)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(SCHEMAS, st.randoms(use_true_random=False))
def test_whatever_is_drawn_under_a_schema_is_valid(grammars: Grammars, found: dict[str, Any], draw: Random) -> None:
    matcher, said = grammars.matcher(AnswerFormat("schema", json.dumps(found))), b""
    for _ in range(300):
        if matcher.ended or (matcher.whole and draw.random() < 0.5):
            break
        tokens = matcher.allowed().nonzero()[0]
        token = int(draw.choice(tokens))
        matcher.push(token)
        said += TEXT_OF[token]
    if matcher.whole:
        assert valid(json.loads(said), found), said


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars_module, "_REMEMBERED", 3)
    found = Grammars(Tokenizer(build_tokenizer(), "tokenizer", VOCABULARY), VOCABULARY)
    for length in range(1, 7):
        found.matcher(AnswerFormat("regex", "z" * length))
    assert len(found._verdicts) == 3
    found.close()


def test_a_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    found = Grammars(Tokenizer(build_tokenizer(), "tokenizer", VOCABULARY), VOCABULARY)
    with pytest.raises(ResourceError, match=r"need the package llguidance: pip install .*\[structured\]"):
        found.matcher(AnswerFormat("regex", "a"))
