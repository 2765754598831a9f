"""The two mean KLs that are measured of a model. They are of different text, so neither replaces the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

# text_kl: of plain text, by `build` and `validate`; suite_kl: of all items of the suites, by `eval`.
KLName = Literal["text_kl", "suite_kl"]
KL_TITLES: Mapping[KLName, str] = {"text_kl": "text KL", "suite_kl": "suite KL"}
KL_WORDS: Mapping[KLName, str] = {"text_kl": "mean KL on the build's text", "suite_kl": "mean KL on the suites"}
