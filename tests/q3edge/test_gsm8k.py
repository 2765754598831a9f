"""GSM8K's marks: every note for a calculator goes, and nothing that people write besides."""

from __future__ import annotations

import pytest

from q3edge.gsm8k import without_calculator_notes


@pytest.mark.parametrize(
    ("solution", "clean"),
    [
        ("48/2 = <<48/2=24>>24 clips", "48/2 = 24 clips"),
        ("$<<12/60=0.2>>0.2 a minute", "$0.2 a minute"),
        ("5*.2 = <<5*.2=1.0>>1 and 20% of it <<1*20*.01=.2>>.2", "5*.2 = 1 and 20% of it .2"),
        ("(<<100%-30%=70%>>70%) of $<<2 * (1,000 - 3) = 1994>>1,994", "(70%) of $1,994"),
        ("<<16-3-4=9>><<9*2=$18>>\n#### 18", "\n#### 18"),
    ],
)
def test_notes_for_a_calculator_go(solution: str, clean: str) -> None:
    assert without_calculator_notes(solution) == clean


@pytest.mark.parametrize(
    "code",
    ["1 << 2 >> 1", "cout << a = b >> c;", "x<<4 if y==1 else z>>2", "<< /Length 3 >>", "List<List<int>>", "<<=>="],
)
def test_code_stays(code: str) -> None:
    assert without_calculator_notes(code) == code
