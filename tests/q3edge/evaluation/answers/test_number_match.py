"""What is taken for the answer in a model's own words."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.evaluation.answers.number_match import chosen_letter, final_number, is_right, json_value
from q3edge.evaluation.suites.suite import Item

CITIES = ("Rome", "Paris", "Vitamin C", "New York")
SCRIPTS = {"Arabic": "٠", "Persian": "۰", "Devanagari": "०", "Bengali": "০", "Thai": "๐", "full width": "０"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("She has 3 + 4 = 7 eggs, so she makes $18.00.", "18"),
        ("**18**", "18"),
        ("the sum is 5.\n#### 18\nThat took 2 steps.", "18"),
        (r"so \boxed{18} of 20", "18"),
        (r"\[\boxed{\text{\$}1{,}250}\]", "1250"),
        (r"\boxed{?} 7", "7"),
        ("The answer is 12. (Found in 3 steps.)", "12"),
        ("**Answer:** $12.50, in 3 steps", "12.5"),
        ("The answer is 3 + 4 = 7 eggs.", "7"),
        ("The answer is 12 - 5 = 7.\nThat took 2 steps.", "7"),
        ("The answer is not known, but 5", "5"),
        ("答案是 12。共 3 步", "12"),
        ("#### 18 (in 5 steps)", "18"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"so \boxed{-\dfrac{3}{4}} of 20", "-0.75"),
        (r"\boxed{2\frac12}", "2.5"),
        (r"\boxed{1/4}", "0.25"),
        ("1/2", "0.5"),
        ("open 24/7", "7"),
        ("€1,234,567.50", "1234567.5"),
        ("1'250", "1250"),
        ("70 000", "70000"),
        ("70\u202f000 francs", "70000"),
        ("1,00,000 rupees", "100000"),
        ("1,5", "1.5"),
        ("0,125", "0.125"),
        ("1.234.567,25", "1234567.25"),
        ("1.234", "1.234"),
        ("choose 1,2,3", "3"),
        ("in 2020 100", "100"),
        ("on 2020.05.12", "12"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("it is -$5", "-5"),
        ("between 10-12", "12"),
        ("(3)-5", "5"),
        ("- 5 apples", "5"),
        ("القيمة ١٨٫٥", "18.5"),
        ("答案是１８。", "18"),
    ],
)
def test_the_final_number(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "####", "###", "①", "½"])
def test_no_number(text: str) -> None:
    assert final_number(text) is None


@pytest.mark.parametrize(("language", "number"), [("de", 70000), ("en", 70), ("zh", 70), ("", 70)])
def test_a_dot_separates_thousands_where_it_is_written_so(language: str, number: int) -> None:
    assert final_number("70.000", language) == number
    assert final_number("0.125", language) == Decimal("0.125")
    assert final_number("70,000", language) == 70000


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "{}.0", "{:,}.00", "it is {}.", "${}$", "{} €"]))
def test_integers_however_written(value: int, form: str) -> None:
    assert final_number(form.format(value)) == value


@given(st.integers(0, 10**9), st.sampled_from(sorted(SCRIPTS)))
def test_digits_of_every_script(value: int, script: str) -> None:
    zero = ord(SCRIPTS[script])
    assert final_number("".join(chr(zero + int(digit)) for digit in str(value))) == value


@given(st.text(alphabet="0123456789.,' -$#\\boxed{}\u00a0٣x", max_size=40), st.sampled_from(["en", "de"]))
def test_any_text_gives_a_number_or_none(text: str, language: str) -> None:
    found = final_number(text, language)
    assert found is None or found.is_finite()
    assert (found is None) <= (not any(c.isdecimal() for c in text))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B.**", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("B. Paris", "B"),
        ("The capital is B) Paris, not A.", "B"),
        ("A and C are wrong.\nAnswer: B", "B"),
        ("The answer is (B).", "B"),
        ("**Answer:** D", "D"),
        ("选B。", "B"),
        ("答案是 D", "D"),
        ("A. Rome\nB. Paris\nC. Vitamin C\nD. New York\nAnswer: B", "B"),
        ("Paris", "B"),
        ("paris.", "B"),
        ("Vitamin C", "C"),
        ("A capital on the Seine: Paris", "B"),
        ("A is right", "A"),
        ("A", "A"),
        ("It must be New York then", "D"),
        ("b", "B"),
        ("(b)", "B"),
        ("b) Paris", "B"),
        ("Answer: b", "B"),
        ("So the answer is (b).", "B"),
        ("Ｂ", "B"),
        ("答案：Ｂ", "B"),
    ],
)
def test_the_chosen_letter(text: str, letter: str) -> None:
    assert chosen_letter(text, CITIES) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "E",
        "e",
        "Rome or Paris",
        "I cannot say",
        "ABC",
        "A dog",
        "a dog",
        "the answer is a dog",
        "DNA",
        "A. B. C. D.",
    ],
)
def test_no_letter(text: str) -> None:
    assert chosen_letter(text, CITIES) is None


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "Answer: {}", "{}: x", "**{}**", "答案：{}"]))
def test_a_letter_however_marked(letter: str, form: str) -> None:
    assert chosen_letter(form.format(letter), CITIES) == letter


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values, st.sampled_from(["{}", " {}\n", "```json\n{}\n```", "```\n{}```"]))
def test_json_with_or_without_a_fence(value: Any, form: str) -> None:
    text = form.replace("{}", json.dumps(value, indent=1))
    assert json_value(text) == value
    assert is_right(Item("1", "answer", "code", "en", "?", final=json.dumps(value), answer_format="json"), text)


@pytest.mark.parametrize("text", ["", "{", "{} {}", "so: {}", "[" * 100_000, "```json\n{\n```"])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|line 2|deeply"):
        json_value(text)


@pytest.mark.parametrize(
    ("form", "final", "given_answer", "right"),
    [
        ("text", "Paris", " Paris\n", True),
        ("text", "Paris", "paris", False),
        ("number", "1,250", "that makes 1250.0 dollars", True),
        ("number", "18", "none", False),
        ("number", "many", "many", True),
        ("json", '{"a": 1, "b": [true]}', '{"b": [true], "a": 1.0}', True),
        ("json", "1", "true", False),
        ("json", '[{"a": 0}]', '[{"a": false}]', False),
        ("json", "[1]", "[1, 1]", False),
        ("json", "1", "one", False),
    ],
)
def test_right_or_wrong(form: Any, final: str, given_answer: str, right: bool) -> None:
    item = Item("1", "answer", "math", "en", "?", final=final, answer_format=form)
    assert is_right(item, given_answer) == right


def test_choices_and_what_has_no_answer() -> None:
    item = Item("1", "choice", "knowledge", "en", "?", "B", "B", choices=CITIES)
    assert is_right(item, "Paris")
    assert not is_right(item, "Rome")
    with pytest.raises(ValueError, match="kind code"):
        is_right(Item("1", "code", "code", "en", "?"), "")
