"""Yes-or-no questions about an artifact, each answered with the number and the limit it was held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.errors import InputError
from q3edge.evaluation.distance.statistics import Comparison
from q3edge.evaluation.distance.streams import CausalDecoder
from q3edge.evaluation.validation.results import CheckResult

MAX_PATH_DIFFERENCE = 1e-3
MAX_PATH_DIFFERENCE_ROUNDED = 0.3
MAX_FLOAT_KL = 1e-6
MAX_FLOAT_LOGIT_ERROR = 1e-3
PATH_TOKENS = 32


def require_same_architecture(folder: Path, config: Qwen3Config, reference: Qwen3Config) -> None:
    """InputError: `folder`, whose config is given first, is of another shape than the reference."""
    if config != reference:
        raise InputError(f"{folder}: config.json differs from the reference's; give the model it was made from")


def check_kl(overall: Comparison, max_kl: float) -> CheckResult:
    """The mean KL on the text is at most `max_kl` nats."""
    value = overall.mean_kl.value
    reason = f"mean KL on the text {value:.3g} nats, at most {max_kl:g} asked for"
    return CheckResult.at_most("max_text_kl", value, max_kl, reason)


def check_float(overall: Comparison) -> list[CheckResult]:
    """A float artifact computes what the float model does, but for the order of summation."""
    kl, error = overall.mean_kl.value, overall.max_logit_error
    return [
        CheckResult.at_most("float_kl", kl, MAX_FLOAT_KL, "mean KL of a float export, in nats"),
        CheckResult.at_most(
            "float_logits",
            error,
            MAX_FLOAT_LOGIT_ERROR,
            "largest relative error of one token's logits in a float export",
        ),
    ]


def check_prefill_equals_decode(
    decoder: CausalDecoder, inputs: NDArray[np.int64], *, rounded: bool, int8_cache: bool = False
) -> CheckResult:
    """All tokens at once and one at a time give the same logits: the value is RMS(difference) / RMS(centred logits).

    `rounded` activations move by a whole int8 step where float32 summation order moves them across a boundary, and
    later layers amplify that; the limit is then loose, and the strict one is for a run with exact activations. So it is
    for an int8 cache: a token sees those before it as they are in a prefill, and as they were stored in decoding.
    """
    inputs = inputs[:PATH_TOKENS]
    together = decoder.forward(inputs[None], decoder.new_cache(len(inputs)), keep=0)[0].astype(np.float64)
    cache = decoder.new_cache(len(inputs))
    single = np.concatenate([decoder.forward(inputs[None, i : i + 1], cache)[0] for i in range(len(inputs))])
    value = float(np.sqrt(np.square(together - single).mean())) / float(together.std())
    limit = MAX_PATH_DIFFERENCE_ROUNDED if rounded or int8_cache else MAX_PATH_DIFFERENCE
    same = int((together.argmax(-1) == single.argmax(-1)).sum())
    activations = "rounded" if rounded else "exact"
    reason = (
        f"prefill and token-by-token logits differ by {value:.2g} of their spread with {activations} activations, "
        f"likeliest token the same at {same} of {len(inputs)}"
    )
    return CheckResult.at_most(f"prefill_equals_decode_{activations}", value, limit, reason)
