"""Math: sums, differences, small products, comparisons and two-step sums with exact digits."""

from __future__ import annotations

from random import Random

from ..item import Item

_PLACES = ("Ones", "Tens", "Hundreds", "Thousands")

ADD = (
    "{a} + {b}",
    "What is {a} + {b}?",
    "Add {a} and {b}.",
    "Compute {a} + {b}.",
    "What is {a} plus {b}?",
    "Tom has {a} apples and gets {b} more. How many apples does he have?",
)
SUBTRACT = (
    "{a} - {b}",
    "What is {a} - {b}?",
    "Subtract {b} from {a}.",
    "Compute {a} - {b}.",
    "What is {a} minus {b}?",
    "Ana has {a} coins and spends {b}. How many coins are left?",
)
MULTIPLY = (
    "{a} * {b}",
    "What is {a} * {b}?",
    "Multiply {a} by {b}.",
    "What is {a} times {b}?",
    "There are {a} boxes with {b} pens each. How many pens are there?",
)
LARGER = (
    "Which is larger, {a} or {b}?",
    "Which number is greater: {a} or {b}?",
    "Give the larger of {a} and {b}.",
)
SMALLER = (
    "Which is smaller, {a} or {b}?",
    "Which number is less: {a} or {b}?",
    "Give the smaller of {a} and {b}.",
)
TWO_STEP = ("{a} + {b} - {c}", "What is {a} + {b} - {c}?", "Add {a} and {b}, then subtract {c}.")


def add_steps(a: int, b: int) -> str:
    """Write the column addition, ones first."""
    lines, carry, place = [], 0, 0
    while place == 0 or 10**place <= max(a, b):
        left, right = a // 10**place % 10, b // 10**place % 10
        total = left + right + carry
        lines.append(f"{_PLACES[place]}: {left}+{right}" + ("+1" if carry else "") + f"={total}")
        carry, place = total // 10, place + 1
    return "\n".join([*lines, f"So {a + b}"])


def subtract_steps(a: int, b: int) -> str:
    """Write the column subtraction of b from the larger a, ones first."""
    lines, borrow, place = [], 0, 0
    while place == 0 or 10**place <= a:
        left, right = a // 10**place % 10, b // 10**place % 10
        lend = 1 if left - right - borrow < 0 else 0
        digit = left + 10 * lend - right - borrow
        text = f"{left + 10 * lend}-{right}" + ("-1" if borrow else "") + f"={digit}"
        lines.append(f"{_PLACES[place]}: {text}" + (", borrow" if lend else ""))
        borrow, place = lend, place + 1
    return "\n".join([*lines, f"So {a - b}"])


def compare_steps(a: int, b: int) -> str:
    """Compare two different numbers by length, then by the first digit that differs."""
    left, right = str(a), str(b)
    low, high = sorted((a, b))
    if len(left) != len(right):
        return f"{high} has more digits than {low}, so {high} > {low}"
    first = next(i for i in range(len(left)) if left[i] != right[i])
    big, small = max(left[first], right[first]), min(left[first], right[first])
    return f"{_PLACES[len(left) - 1 - first]}: {big} > {small}, so {high} > {low}"


def number(rng: Random, digits: int) -> int:
    """Draw a number with at most that many digits, long ones more often."""
    length = rng.choice([digits, digits, rng.randint(1, digits)])
    return rng.randint(10 ** (length - 1) if length > 1 else 0, 10**length - 1)


def sum_parts(rng: Random, thinking: bool) -> tuple[int, int]:
    """Two operands: three digits with thinking, mostly two without."""
    digits = 3 if rng.random() < (0.35 if thinking else 0.05) else 2
    return number(rng, digits), number(rng, digits)


def sum_key(operation: str, *operands: int) -> str:
    """The split key of a calculation, shared by all wordings and languages."""
    return f"{operation}:" + ":".join(map(str, operands))


def _item(question: str, steps: str, answer: int, key: str) -> Item:
    return Item("math", "en", question, steps, str(answer), key)


def _add(rng: Random, thinking: bool) -> Item:
    a, b = sum_parts(rng, thinking)
    key = sum_key("add", *sorted((a, b)))
    return _item(rng.choice(ADD).format(a=a, b=b), add_steps(a, b), a + b, key)


def _subtract(rng: Random, thinking: bool) -> Item:
    b, a = sorted(sum_parts(rng, thinking))
    return _item(rng.choice(SUBTRACT).format(a=a, b=b), subtract_steps(a, b), a - b, sum_key("sub", a, b))


def _multiply(rng: Random, thinking: bool) -> Item:
    """A product of the small table (its wordings are split), or with thinking also two digits by one."""
    if thinking and rng.random() < 0.4:
        a, b = rng.randint(11, 99), rng.randint(2, 9)
        tens, ones = a - a % 10, a % 10
        steps = f"{tens}*{b}={tens * b}\n{ones}*{b}={ones * b}\nSum {tens * b}+{ones * b}={a * b}\nSo {a * b}"
        return _item(rng.choice(MULTIPLY).format(a=a, b=b), steps, a * b, sum_key("mul", a, b))
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = rng.choice(MULTIPLY).format(a=a, b=b)
    return _item(question, f"{a}*{b}={a * b}\nSo {a * b}", a * b, question)


def _compare(rng: Random, thinking: bool) -> Item:
    a = number(rng, 3)
    b = max(0, a + rng.randint(-30, 30)) if rng.random() < 0.4 else number(rng, 3)
    b = b + 1 if a == b else b
    larger = rng.random() < 0.5
    question = rng.choice(LARGER if larger else SMALLER).format(a=a, b=b)
    return _item(question, compare_steps(a, b), (max if larger else min)(a, b), sum_key("cmp", *sorted((a, b))))


def _two_step(rng: Random, thinking: bool) -> Item:
    top = 50 if thinking else 20
    a, b = rng.randint(1, top), rng.randint(1, top)
    c = rng.randint(1, min(top, a + b))
    steps = f"{a}+{b}={a + b}\n{a + b}-{c}={a + b - c}\nSo {a + b - c}"
    return _item(rng.choice(TWO_STEP).format(a=a, b=b, c=c), steps, a + b - c, sum_key("two", a, b, c))


_KINDS = (_add, _subtract, _multiply, _compare, _two_step)
_WEIGHTS = (34, 34, 10, 8, 14)


def sample(rng: Random, thinking: bool) -> Item:
    """Draw one calculation."""
    return rng.choices(_KINDS, _WEIGHTS)[0](rng, thinking)
