"""Validation of an embedding artifact: its vectors of passages beside the float model's, and whom each is next to.

What search sees is the order of neighbours, so that is measured besides the cosine of each vector with the float one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.artifact import MODEL_FILE
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError, ValidationError
from q3edge.evaluation.distance.statistics import Bootstrap, Estimate
from q3edge.evaluation.validation.activations import ActivationRounding
from q3edge.evaluation.validation.checks import require_same_architecture
from q3edge.evaluation.validation.dead_matrices import check_dead_matrices
from q3edge.evaluation.validation.results import CheckResult
from q3edge.reference.model import hidden_states
from q3edge.runtime.padding import right_padded
from q3edge.runtime.session.embedder import Embedder
from q3edge.runtime.session.loader import open_graph

NEIGHBOURS = 10
MAX_FLOAT_DISTANCE = 1e-6  # 1 - cosine, of a float export
MAX_PADDING_DISTANCE, MAX_PADDING_DISTANCE_ROUNDED = 1e-6, 0.05  # between a text alone and one in a padded pass
_PASS = 16  # texts


@dataclass(frozen=True, slots=True)
class EmbeddingReport:
    """Comparison of an embedding artifact with the float model it came from, on `texts` passages.

    cosine: of each vector with the float one, on average; lowest_cosine: of the worst. nearest: share of passages whose
    nearest other one is the same. neighbours: share of the ten nearest that are the same. weights_part,
    activations_part: mean cosine of the same weights with exact float32 activations with the float model, and of the
    artifact as it runs with that; None where its products round no activations, or cannot do without.
    verdict: what it comes to, in words. kernels: that computed the artifact's products, as `Embedder.kernels` says.
    """

    KEY: ClassVar = "embedding_validation"  # among a manifest's metrics

    texts: int
    cosine: Estimate
    lowest_cosine: float
    nearest: Estimate
    neighbours: Estimate
    weights_part: float | None
    activations_part: float | None
    checks: tuple[CheckResult, ...]
    verdict: str
    kernels: str

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "fail")

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object; every number is finite."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits of a grade: mean cosine and share of the ten nearest, which must both be reached."""

    words: str
    cosine: float
    neighbours: float


_GRADES = (
    _Limits("as good as float", 0.999, 0.95),
    _Limits("close to float, for search", 0.98, 0.85),
    _Limits("worse than float, for coarse search", 0.9, 0.6),
)
_LAST = "unusable"


def validate_embeddings(
    folder: Path,
    reference: WeightSource,
    passages: Sequence[Sequence[int]],
    *,
    threads: int | None = None,
    kernels: str | None = None,
) -> EmbeddingReport:
    """Compare the artifact in `folder` with the float model it came from, on passages of token ids, at least three.

    InputError: the folder is broken, its architecture differs from the reference's, or there are too few passages.
    ValidationError: numbers that are NaN or infinite. A failed check is in the report, not raised.
    """
    if len(passages) < 3:
        raise InputError(f"{len(passages)} passages of text; expected at least 3 to compare neighbours, give more text")
    checked = open_graph(folder, "embedding", afresh=True)
    network = Embedder(folder, threads=threads, kernels=kernels, checked=checked)
    require_same_architecture(folder, network.config, reference.config)
    expected, found = float_vectors(reference, passages), _vectors(network, passages)
    rounding = ActivationRounding.read(folder / MODEL_FILE)
    exact: NDArray[np.float32] | None = None
    if rounding.inseparable_reason is None:
        exact_network = Embedder(folder, threads=threads, exact_activations=True, kernels=kernels, checked=checked)
        exact = _vectors(exact_network, passages)
    for vectors in (expected, found):
        if not np.isfinite(vectors).all():
            raise ValidationError(f"{folder}: vectors with numbers that are NaN or infinite; quantize and export again")
    cosine = _cosines(expected, found)
    nearest, neighbours = (_kept(expected, found, most) for most in (1, min(NEIGHBOURS, len(passages) - 1)))
    draws = Bootstrap(np.arange(len(passages)))
    report_cosine, kept = draws.mean(cosine), draws.mean(neighbours)
    checks = [_check_padding(network, passages, rounded=bool(rounding.fixed or rounding.switchable))]
    if not any(rule["scheme"] for rule in network.manifest.recipe["rules"]):
        reason = f"largest 1 - cosine of a float export {1 - cosine.min():.3g}, at most {MAX_FLOAT_DISTANCE:g} expected"
        checks.append(CheckResult.at_most("float_vectors", float(1 - cosine.min()), MAX_FLOAT_DISTANCE, reason))
    checks.append(check_dead_matrices(folder, network.config, reference))
    return EmbeddingReport(
        texts=len(passages),
        cosine=report_cosine,
        lowest_cosine=float(cosine.min()),
        nearest=draws.mean(nearest),
        neighbours=kept,
        weights_part=None if exact is None else float(_cosines(expected, exact).mean()),
        activations_part=None if exact is None else float(_cosines(exact, found).mean()),
        checks=tuple(checks),
        verdict=_verdict(report_cosine.value, kept.value),
        kernels=network.kernels,
    )


def float_vectors(source: WeightSource, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Compute vectors float32 [N, H] by the float reference: the last token's normed state, of length 1."""
    lengths = [len(ids) for ids in texts]
    states = hidden_states(source, right_padded(texts), lengths)
    last = states[torch.arange(len(texts)), torch.tensor(lengths) - 1]
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(last, dim=-1).numpy()
    return vectors


def _vectors(network: Embedder, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    return np.concatenate([network.forward(texts[start : start + _PASS]) for start in range(0, len(texts), _PASS)])


def _check_padding(network: Embedder, texts: Sequence[Sequence[int]], *, rounded: bool) -> CheckResult:
    """Check that a text's vector does not depend on the others in its pass, by half a text beside the longest."""
    longest = max(texts, key=len)
    half = texts[0][: len(longest) // 2]
    value = max(0.0, float(1 - _cosines(network.forward([half]), network.forward([half, longest])[:1]).min()))
    limit = MAX_PADDING_DISTANCE_ROUNDED if rounded else MAX_PADDING_DISTANCE
    reason = f"a text alone and beside a longer one: 1 - cosine {value:.2g}, at most {limit:g} expected"
    return CheckResult.at_most("padding", value, limit, reason)


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of `a` with that of `b`."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(wide_a, axis=-1) * np.linalg.norm(wide_b, axis=-1)
    cosines: NDArray[np.float64] = (wide_a * wide_b).sum(-1) / lengths
    return cosines


def _kept(expected: NDArray[np.float32], found: NDArray[np.float32], most: int) -> NDArray[np.float64]:
    """Share of the `most` nearest others of each text that are the same by both."""
    sets = [_nearest(vectors, most) for vectors in (expected, found)]
    return np.array([len(np.intersect1d(a, b)) / most for a, b in zip(*sets)])


def _nearest(vectors: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    products = vectors @ vectors.T
    np.fill_diagonal(products, -np.inf)
    order: NDArray[np.int64] = np.argsort(-products, axis=1, kind="stable")[:, :most]
    return order


def _verdict(cosine: float, neighbours: float) -> str:
    words = next((g.words for g in _GRADES if cosine >= g.cosine and neighbours >= g.neighbours), _LAST)
    return f"{words}: of the ten nearest texts it keeps {10 * neighbours:.1f}"
