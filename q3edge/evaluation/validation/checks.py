"""Checks of an artifact, each with its value and the limit it is compared with."""

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
MAX_FLOAT_KL, MAX_FLOAT_KL_OF_EXPERTS = 1e-6, 1e-5
MAX_FLOAT_LOGIT_ERROR = 1e-3
PATH_TOKENS = 32


def require_same_architecture(folder: Path, config: Qwen3Config, reference: Qwen3Config) -> None:
    """Raise InputError if `config`, that of the artifact in `folder`, differs from the reference's.

    It may choose fewer experts a token.
    """
    if config != reference and not chooses_fewer(config, reference):
        raise InputError(f"{folder}: config.json differs from the reference's; give the model it was made from")


def chooses_fewer(config: Qwen3Config, reference: Qwen3Config) -> bool:
    """Tell whether `config` is the reference's but for fewer experts a token."""
    if config.moe is None or reference.moe is None:
        return False
    chosen = config.moe.num_experts_per_tok
    return chosen < reference.moe.num_experts_per_tok and config == reference.choosing(chosen)


def check_kl(overall: Comparison, max_kl: float) -> CheckResult:
    """Check that the mean KL on the text is at most `max_kl` nats."""
    value = overall.mean_kl.value
    reason = f"mean KL on the text {value:.3g} nats, at most {max_kl:g} asked for"
    return CheckResult.at_most("max_text_kl", value, max_kl, reason)


def check_float(overall: Comparison, *, experts: bool = False) -> list[CheckResult]:
    """Check that a float artifact computes what the float model does, except for the order of summation.

    That order decides between two experts that are all but tied: in a mixture of `experts` it may change a token's
    logits by more than rounding does, so there only the mean counts.
    """
    kl, error = overall.mean_kl.value, overall.max_logit_error
    max_kl = MAX_FLOAT_KL_OF_EXPERTS if experts else MAX_FLOAT_KL
    kl_reason = f"mean KL of a float export {kl:.3g} nats, at most {max_kl:g} expected"
    error_reason = (
        f"largest relative error of one token's logits in a float export {error:.3g}, "
        f"at most {MAX_FLOAT_LOGIT_ERROR:g} expected"
    )
    if experts:
        return [CheckResult.at_most("float_kl", kl, max_kl, kl_reason)]
    return [
        CheckResult.at_most("float_kl", kl, max_kl, kl_reason),
        CheckResult.at_most("float_logits", error, MAX_FLOAT_LOGIT_ERROR, error_reason),
    ]


def check_prefill_equals_decode(
    decoder: CausalDecoder, inputs: NDArray[np.int64], *, rounded: bool, int8_cache: bool = False
) -> CheckResult:
    """Check that prefill and token-by-token logits are the same: the value is RMS(difference) / RMS(centred logits).

    In a mixture of experts the median token's RMS counts: the order of sums decides between experts all but tied.

    `rounded` activations move by a whole int8 step where float32 summation order moves them across a boundary, and
    later layers amplify that; the limit is then loose, and the strict one is for a run with exact activations. It is
    loose for an int8 cache too: a token sees those before it unrounded in a prefill, and as stored in decoding.
    """
    inputs = inputs[:PATH_TOKENS]
    together = decoder.forward(inputs[None], decoder.new_cache(len(inputs)), keep=0)[0].astype(np.float64)
    cache = decoder.new_cache(len(inputs))
    single = np.concatenate([decoder.forward(inputs[None, i : i + 1], cache)[0] for i in range(len(inputs))])
    squares = np.square(together - single).mean(-1)
    square = squares.mean() if decoder.config.moe is None else np.median(squares)
    value = float(np.sqrt(square)) / float(together.std())
    limit = MAX_PATH_DIFFERENCE_ROUNDED if rounded or int8_cache else MAX_PATH_DIFFERENCE
    same = int((together.argmax(-1) == single.argmax(-1)).sum())
    activations = "rounded" if rounded else "exact"
    reason = (
        f"prefill and token-by-token logits differ by {value:.2g} of their spread with {activations} activations, "
        f"top-1 agreement at {same} of {len(inputs)} tokens"
    )
    return CheckResult.at_most(f"prefill_equals_decode_{activations}", value, limit, reason)
