"""KL divergence of rounded models to the float one, from hidden states. Memory is a few positions' logits.

Separate from q3edge.evaluation.distance: calibration ranks many candidates against one target and needs only the mean,
so this is float32 with one product for all candidates. Evaluation reports single tokens and computes in float64; its
formula here would change the choices of calibration, and with them the bytes of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from q3edge.reference.model import LogitsHead

_LOGITS_BYTES = 128 << 20


@torch.no_grad()
def mean_kl(
    float_head: LogitsHead, target: torch.Tensor, head: LogitsHead, candidates: Sequence[torch.Tensor]
) -> list[float]:
    """Compute the mean KL(float || candidate) in nats over positions, for each candidate.

    target: hidden states float32 [T, H] of the float model after the final norm; candidates: the same of each model
    that is compared, all of which end in `head`.
    """
    totals = torch.zeros(len(candidates), dtype=torch.float64)
    step = 1
    start = 0
    while start < len(target):
        part = slice(start, start + step)
        wanted = torch.log_softmax(float_head.logits(target[part]), dim=-1)
        step = max(1, _LOGITS_BYTES // (4 * wanted.shape[-1] * (len(candidates) + 1)))
        logits = head.logits(torch.cat([candidate[part] for candidate in candidates]))
        logits = logits.view(len(candidates), *wanted.shape)
        share = wanted.exp()
        # sum p log p - sum p z + log sum exp z, without a second array of the logits' size
        own = (share * wanted).sum(-1) - torch.einsum("tv,ctv->ct", share, logits) + torch.logsumexp(logits, dim=-1)
        totals += own.double().sum(-1)
        start += part.stop - part.start
    return (totals / len(target)).tolist()
