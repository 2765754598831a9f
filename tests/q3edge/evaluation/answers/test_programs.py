"""Programs out of answers: what a reader would run is what runs, however it is wrapped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from q3edge.evaluation.answers.programs import program, standing
from q3edge.evaluation.suites.suite import Item

CODE = Item(
    "1", "code", "code", "en",
    "from math import gcd\nfrom typing import List\n\n\ndef one() -> int:\n    return 1\n\n\n"
    'def f(a: int) -> int:\n    """Twice."""\n',
    test="def check(candidate):\n    assert candidate(2) == 4 and gcd(2, 4) == 2 and one() == 1", entry_point="f",
)  # fmt: skip
BARE = replace(CODE, prompt="from math import gcd\n\ndef one(): return 1\n\ndef f(a: int) -> int:\n")


def run(item: Item, answer: str) -> None:
    """Run the program and the test; each as a module of its own."""
    made: dict[str, Any] = {"__name__": "program"}
    exec(compile(program(item, answer), "program", "exec"), made)
    known: dict[str, Any] = {}
    exec(compile(standing(item.prompt, item.entry_point), "prompt", "exec"), known)
    exec(item.test, known)
    known["check"](made[item.entry_point])


WHOLE = "def f(a):\n    return 2 * a"
HELPED = "def f(a):\n    return helper(a)"
HELPER = "def helper(a):\n    return 2 * a"
ANSWERS = {
    "body": "    return 2 * a",
    "body and a broken rest": "    return 2 * a\n\nprint(f(",
    "body with empty lines": "\n    b = a\n\n    return a + b\n\n\ndef g(:",
    "body at the margin": "return 2 * a",
    "body of two lines at the margin": "b = a\nreturn a + b",
    "body whose first line lost its indentation": "b = a\n    if b:\n        b *= 2\n    return b",
    "body with two spaces": "  b = a\n  return a + b",
    "body with tabs": "\tb = a\n\treturn a + b",
    "body and a helper behind it": f"    return helper(a)\n\n\n{HELPER}\n",
    "body and a helper among broken code": f"    return helper(a)\n\n\n{HELPER}\n\nprint(f(",
    "body, then a fence that closes nothing": "    return 2 * a\n```\n\nSo:\n\n```python\nprint(f(2))\n```\n",
    "body, then the model asks itself": "    return 2 * a\n\n\ndef g(a):\n    return a\n\nx = input()\n",
    "body in a block": "```\n    return 2 * a\n```",
    "body in a block at the margin": "```python\nreturn 2 * a\n```",
    "body in a block, then its use": "```python\n    return 2 * a\n```\nUse:\n```python\nprint(f(2))\n```",
    "body in a block, imports before": "```python\nimport math\n```\n\n```python\nreturn math.trunc(2 * a)\n```",
    "prose, then a body": "It doubles its argument:\n\n    return 2 * a\n",
    "block": f"Here:\n```python\n{WHOLE}\n```\nIt doubles.",
    "block of py": f"```py\n{WHOLE}\n```",
    "block of Python 3": f"```Python3\n{WHOLE}\n```",
    "block with attributes": f'```python title="f.py"\n{WHOLE}\n```',
    "block with a space": f"``` python\n{WHOLE}\n```",
    "block with longer fences": f"````python\n{WHOLE}\n````",
    "block with tildes": f"~~~\n{WHOLE}\n~~~",
    "block of python with tildes": f"Here:\n\n~~~python\n{WHOLE}\n~~~\nIt doubles.",
    "block behind prose in its line": f"Here: ```python\n{WHOLE}\n```",
    "block with Windows line ends": f"```python\n{WHOLE}\n```".replace("\n", "\r\n"),
    "block in a list": "1. So:\n   ```python\n   def f(a):\n       return 2 * a\n   ```\n",
    "block that is indented": "```python\n    def f(a):\n        return 2 * a\n    ```",
    "block that was cut": f"```python\n{WHOLE}",
    "block closed in the last line": f"```python\n{WHOLE}```",
    "block, then its use": f"```python\n{WHOLE}\n```\nUse it so:\n```python\nprint(f(\n```",
    "block, then its output": f"```python\n{WHOLE}\n```\n```text\n4\n```\n```bash\nrm -rf f\n```",
    "blocks, the last is right": f"```python\ndef f(a): return 0\n```\nBetter:\n```python\n{WHOLE}\n```",
    "imports in an earlier block": "```python\nimport math as m\n```\n```py\ndef f(a):\n    return m.trunc(2 * a)\n```",
    "imports of all names": "```python\nfrom math import *\n```\n```python\ndef f(a):\n    return trunc(2 * a)\n```",
    "helper in an earlier block": f"```python\n{HELPER}\n```\nThen:\n```python\n{HELPED}\n```",
    "helper in a later block": f"```python\n{HELPED}\n```\nwith\n```python\n{HELPER}\n```",
    "helper of a helper": f"```python\n{HELPED}\n```\n```python\ndef helper(a): return twice(a)\n```\n```python\n"
    "TWO = 2\ndef twice(a): return TWO * a\n```",
    "decorated helper": f"```python\nimport functools\n@functools.cache\n{HELPER}\n```\n```python\n{HELPED}\n```",
    "decorator in an earlier block": "```python\ndef same(g):\n    return g\n```\n```python\n@same\n" + WHOLE + "\n```",
    "helper beside a call that fails": f"```python\n{HELPER}\nprint(f(3))\n```\n```python\n{HELPED}\n```",
    "no fence": WHOLE,
    "no fence, helper behind": f"{HELPED}\n\n{HELPER}",
    "no fence, prose before": f"Here is the function:\n\n{WHOLE}",
    "no fence, prose around": f"Sure! Here it is:\n{WHOLE}\nIt doubles its argument, so f(2) is 4.\n",
    "no fence, prose and imports": f"We need math.\nimport math\n{WHOLE.replace('2 * a', 'math.trunc(2 * a)')}\nDone.",
    "no fence, prose and helper": f"First a helper:\n{HELPER}\n\nThen:\n{HELPED}\n\nThat's it!",
    "no fence, indented as Markdown's code": "Here:\n\n    def f(a):\n        return 2 * a\n\nDone.",
    "no fence, decorated": f"So:\nimport functools\n@functools.cache\n{WHOLE}\nDone, isn't it?",
    "future import": "```python\nfrom __future__ import annotations\n\ndef f(a: Unknown):\n    return 2 * a\n```",
    "lambda": "```python\nf = lambda a: 2 * a\n```",
    "with its own main": f"```python\n{WHOLE}\n\nif __name__ == '__main__':\n    print(f(int(input())))\n```",
    "the prompt again": f"```python\n{CODE.prompt}    return 2 * a\n```",
    "uses what the prompt imports": "```python\ndef f(a: List[int]):\n    return 2 * gcd(a, a) * one()\n```",
    "odd escapes": "```python\ndef f(a):\n    '\\d'\n    return 2 * a\n```",
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_q11_a_right_answer_is_run_as_meant(name: str) -> None:
    run(CODE, ANSWERS[name])


@pytest.mark.parametrize("name", [name for name in ANSWERS if name not in ("uses what the prompt imports",)])
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_q11_a_prompt_needs_no_docstring(name: str) -> None:
    run(BARE, ANSWERS[name])


@pytest.mark.parametrize(
    "answer",
    [
        "", "    return a", "I do not know.", "```python\n```", "def f(a): return 3", "The answer is 4.", "```\n4\n```",
        "```python\ndef g(a):\n    return 2 * a\n```", "```python\ndef f(a):\n    return missing(a)\n```", "(" * 5000,
    ],
)  # fmt: skip
def test_q11_a_wrong_answer_stays_wrong(answer: str) -> None:
    with pytest.raises((AssertionError, SyntaxError, NameError)):
        run(CODE, answer)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('def f(a):\n    """It."""\n', 'def f(a):\n    """It."""\n'),
        ("def f(a):\n", "def f(a):\n\n    pass\n"),
        ("import math\n\ndef f(a):\n    for b in a:\n", "import math\n\n"),
        ("no Python", ""),
    ],
)
def test_q11_a_prompt_can_stand_alone(prompt: str, expected: str) -> None:
    assert standing(prompt, "f") == expected
