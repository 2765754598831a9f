"""Check of every export before it gets its name: the ONNX model computes what the checkpoint's weights give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import MODEL_FILE
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import ValidationError
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.streams import ComparedDecoder
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.activations import ActivationRounding
from q3edge.evaluation.validation.embeddings import float_vectors
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.embedder import Embedder

TOKENS = 32
_TEXTS_OF_EXPERTS = 3
# Relative error of logits: rounding of float32 sums, or of int8 activations; a wrong graph is near 1.
MAX_ERROR_EXACT = 1e-3
MAX_ERROR_INT8 = 0.3


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Relative error |found - expected| / |expected| over all numbers."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def typical_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Relative error of the median row; NaN where any number is."""
    return float(np.median(np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)))


def check_export(folder: Path, source: WeightSource) -> None:
    """Check the output of the artifact in `folder`, logits or vectors, against that of its (dequantized) weights.

    Activations are exact where the kernels allow it, so that only the export is checked. Where they are rounded, the
    median token's error counts: one token with nearly tied attention may change a lot. In a mixture of experts the
    median of three texts' errors counts: experts that are all but tied may be chosen otherwise. ValidationError: above
    the limit.
    """
    vocabulary, rng = source.config.vocab_size, np.random.default_rng(0)
    length = min(TOKENS, source.config.max_position_embeddings)
    texts = [rng.integers(0, vocabulary, length) for _ in range(1 if source.config.moe is None else _TEXTS_OF_EXPERTS)]
    rounding = ActivationRounding.read(folder / MODEL_FILE)
    if source.config.is_embedding:
        what = "vectors"
        ends = [ids[: end + 1].tolist() for ids in texts for end in range(length)]
        vectors = float_vectors(source, ends), Embedder(folder, exact_activations=rounding.switchable).forward(ends)
        expected, found = (np.split(of_all, len(texts)) for of_all in vectors)
    else:
        what, windows = "logits", [Window("check", np.append(ids, 0)) for ids in texts]
        decoder = Decoder(folder, exact_activations=rounding.switchable)
        expected, found = (
            [np.concatenate(list(logits)) for logits in model.logits(windows)]
            for model in (FloatReference(source), ComparedDecoder(decoder))
        )
    error_of = typical_error if rounding.fixed else relative_error
    error = float(np.median(list(map(error_of, found, expected))))
    limit = MAX_ERROR_INT8 if rounding.fixed else MAX_ERROR_EXACT
    if not error <= limit:  # also where it is NaN
        raise ValidationError(
            f"{folder.name}: the ONNX model's {what} differ from the checkpoint's by {error:.2g} (limit {limit:g}); "
            "nothing was kept. Please report this with the model's config.json"
        )
