"""What a runtime made of a folder, compared with q3edge: equal greedy tokens, equal prompts, the KL of its logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from folders import Folder, logits_of
from numpy.typing import NDArray

from q3edge.evaluation.distance.logits import compare_logits


@dataclass(frozen=True)
class Reading:
    """One cell of the table. of: prompts; encoded: how many the runtime's own tokenizer and template encode equally.

    kl: mean KL(q3edge || runtime) in nats over the prompts and q3edge's answers, None where logits are of the last
    position; float_kl, float_kl_q3edge: mean KL(float || runtime) and KL(float || q3edge) there; stated_kl: mean KL to
    the float model in the folder's manifest, which is on other text. failure: what the runtime said; then no figures.
    """

    version: str = ""
    equal: int = 0
    of: int = 0
    encoded: int | None = None
    kl: float | None = None
    float_kl: float | None = None
    float_kl_q3edge: float | None = None
    stated_kl: float | None = None
    failure: str = ""

    @property
    def passed(self) -> bool:
        """All tokens are equal, or the runtime's rounding moves predictions less than quantization is stated to."""
        return not self.failure and (self.equal == self.of or self.within)

    @property
    def within(self) -> bool:
        """Whether its logits are nearer to q3edge's than these are stated to be to the float model's."""
        return self.kl is not None and self.stated_kl is not None and self.kl <= self.stated_kl


def read(out: Path, folder: Folder, reference: Folder) -> Reading:
    """Compare what a script wrote into `out`; `reference`: the float folder."""
    job = folder.job
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    stops, prompts = job["stops"], job["prompts"]
    equal = sum(_before_stop(found, stops) == p["answer"] for found, p in zip(result["answers"], prompts, strict=True))
    encoded = None
    if result["encoded"] is not None:
        encoded = sum(found == prompt["ids"] for found, prompt in zip(result["encoded"], prompts, strict=True))
    kl = float_kl = float_kl_q3edge = None
    if (out / "logits.bin").exists():
        own, exact = logits_of(folder, job), logits_of(reference, job)
        found = np.fromfile(out / "logits.bin", np.float32).reshape(own.shape)
        kl, float_kl, float_kl_q3edge = _mean_kl(own, found), _mean_kl(exact, found), _mean_kl(exact, own)
    return Reading(
        result["version"], equal, len(prompts), encoded, kl, float_kl, float_kl_q3edge, folder.stated_kl
    )  # fmt: skip


def _before_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token in stops]
    return list(ids[: ends[0]] if ends else ids)


def _mean_kl(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    return float(compare_logits(reference, candidate, np.zeros(len(reference), np.int64)).kl.mean())
