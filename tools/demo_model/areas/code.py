"""Code: what a one-line Python program prints."""

from __future__ import annotations

from random import Random

from ..item import Item

WORDINGS = (
    "What does this print? {code}",
    "Give the output of: {code}",
    "Python: {code}",
    "What is the output? {code}",
)
WORDS = (
    "cat", "dog", "sun", "moon", "tree", "fish", "bird", "milk", "rain", "snow", "lamp", "door", "hand",
    "book", "cake", "star", "ship", "ring", "rock", "leaf", "wind", "fire", "gold", "blue", "red",
    "green", "apple", "bread", "chair", "cloud", "dream", "earth", "grape", "house", "juice", "knife",
    "lemon", "mouse", "night", "ocean", "paper", "queen", "river", "stone", "table", "uncle", "voice",
    "water", "zebra",
)  # fmt: skip


def _digits(rng: Random, low: int, high: int) -> list[int]:
    return [rng.randint(0, 9) for _ in range(rng.randint(low, high))]


def _join(values: list[int]) -> str:
    return ", ".join(map(str, values))


Snippet = tuple[str, str, str]
"""Code, worked steps, printed text."""


def _length(rng: Random) -> Snippet:
    values = _digits(rng, 1, 6)
    lines = "\n".join(f"{i + 1}: {value}" for i, value in enumerate(values))
    return f"print(len({values}))", lines, str(len(values))


def _extreme(rng: Random) -> Snippet:
    values = [rng.randint(0, 99) for _ in range(rng.randint(2, 4))]
    name, word = rng.choice((("max", "largest"), ("min", "smallest")))
    answer = max(values) if name == "max" else min(values)
    return f"print({name}({values}))", f"The {word} of {_join(values)} is {answer}", str(answer)


def _total(rng: Random) -> Snippet:
    values = _digits(rng, 2, 4)
    running, parts = values[0], []
    for value in values[1:]:
        parts.append(f"{running}+{value}={running + value}")
        running += value
    return f"print(sum({values}))", "\n".join(parts), str(running)


def _sorted(rng: Random) -> Snippet:
    values = _digits(rng, 2, 4)
    down = rng.random() < 0.3
    result = sorted(values, reverse=down)
    code = f"print(sorted({values}, reverse=True))" if down else f"print(sorted({values}))"
    return code, ("Largest" if down else "Smallest") + f" first: {_join(result)}", str(result)


def _index(rng: Random) -> Snippet:
    values = _digits(rng, 2, 5)
    at = rng.randrange(len(values))
    lines = "\n".join(f"Index {i}: {values[i]}" for i in range(at + 1))
    if rng.random() < 0.25:
        return f"print({values}[-1])", f"Last: {values[-1]}", str(values[-1])
    return f"x = {values}; print(x[{at}])", lines, str(values[at])


def _slice(rng: Random) -> Snippet:
    values = _digits(rng, 3, 5)
    low = rng.randint(0, len(values) - 1)
    high = rng.randint(low, len(values))
    kind = rng.choice(("both", "from", "to", "reverse"))
    text = {"both": f"{low}:{high}", "from": f"{low}:", "to": f":{high}", "reverse": "::-1"}[kind]
    result = {"both": values[low:high], "from": values[low:], "to": values[:high], "reverse": values[::-1]}[kind]
    lines = " ".join(f"{i}:{value}" for i, value in enumerate(values))
    return f"print({values}[{text}])", f"{lines}\nKeep: {_join(result)}", str(result)


def _update(rng: Random) -> Snippet:
    start, change = rng.randint(0, 50), rng.randint(1, 20)
    sign = rng.choice("+-*")
    change = rng.randint(2, 5) if sign == "*" else change
    start = start % 10 if sign == "*" else max(start, change)
    result = {"+": start + change, "-": start - change, "*": start * change}[sign]
    steps = f"x is {start}\nx is {start}{sign}{change}={result}"
    return f"x = {start}; x {sign}= {change}; print(x)", steps, str(result)


def _repeat(rng: Random) -> Snippet:
    word, times = rng.choice(WORDS), rng.randint(2, 3)
    other = rng.choice(WORDS)
    if rng.random() < 0.5:
        return f'print("{word}" * {times})', " ".join([word] * times), word * times
    return f'print("{word}" + "{other}")', f"{word} {other}", word + other


def _letter(rng: Random) -> Snippet:
    word = rng.choice(WORDS)
    at = rng.randrange(len(word))
    spelled = " ".join(f"{i}:{letter}" for i, letter in enumerate(word))
    if rng.random() < 0.4:
        return f'print(len("{word}"))', f"{spelled}", str(len(word))
    if rng.random() < 0.4:
        return f'print("{word}"[::-1])', f"{spelled}\nBackwards: {' '.join(word[::-1])}", word[::-1]
    return f'print("{word}"[{at}])', spelled, word[at]


def _append(rng: Random) -> Snippet:
    values, extra = _digits(rng, 1, 5), rng.randint(0, 9)
    if rng.random() < 0.5:
        return f"x = {values}; x.append({extra}); print(x)", f"Add {extra} at the end", str([*values, extra])
    return f"print({values} + [{extra}])", f"Add {extra} at the end", str([*values, extra])


def _logic(rng: Random) -> Snippet:
    values, probe = _digits(rng, 2, 5), rng.randint(0, 9)
    if rng.random() < 0.5:
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        sign = rng.choice("<>")
        result = a < b if sign == "<" else a > b
        return f"print({a} {sign} {b})", f"{a} {sign} {b} is {result}", str(result)
    return f"print({probe} in {values})", f"Look for {probe} in {_join(values)}", str(probe in values)


def _division(rng: Random) -> Snippet:
    b, quotient = rng.randint(2, 9), rng.randint(0, 9)
    rest = rng.randrange(b)
    a = b * quotient + rest
    sign = rng.choice(("//", "%"))
    steps = f"{b}*{quotient}={b * quotient}\n{a}-{b * quotient}={rest}"
    return f"print({a} {sign} {b})", steps, str(quotient if sign == "//" else rest)


_KINDS = (
    _length, _extreme, _total, _sorted, _index, _slice,
    _update, _repeat, _letter, _append, _logic, _division,
)  # fmt: skip
_WEIGHTS = (7, 10, 8, 12, 9, 14, 10, 7, 7, 7, 7, 2)


def sample(rng: Random, thinking: bool) -> Item:
    """Draw one program; the key is the program, whatever the wording."""
    code, steps, answer = rng.choices(_KINDS, _WEIGHTS)[0](rng)
    return Item("code", "en", rng.choice(WORDINGS).format(code=code), steps, answer, f"code:{code}")
