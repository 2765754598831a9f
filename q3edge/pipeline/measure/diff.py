"""Differences between two ONNX artifacts: recipe, sizes, notices, versions, measured values, and predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import components
from q3edge.artifact import Manifest, Notice, shown_path
from q3edge.artifact.side_files import TOKENIZER_FILE
from q3edge.defaults import MAX_TOKENS
from q3edge.evaluation.distance.chain import compare_models
from q3edge.evaluation.distance.statistics import Comparison, summarize
from q3edge.evaluation.distance.streams import ComparedDecoder
from q3edge.evaluation.validation.checks import chooses_fewer
from q3edge.exporters.onnx.stored import weight_bytes
from q3edge.pipeline.measure.tensor_facts import FLOAT_LABEL
from q3edge.pipeline.measure.validate import text_windows
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.loader import open_artifact

_LEFT_OUT = ("tensors", "checks", "text_kl")  # of the metrics; text_kl is validation.overall.mean_kl, renamed below
_TEXT_KL = {"validation.overall.mean_kl": "validation.text_kl"}  # also in manifests without the key text_kl


@dataclass(frozen=True, slots=True)
class Change:
    """Difference between A and B under one name; None where one of them lacks it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class SchemeChange:
    """Change of scheme: `tensors` matrices have `a` in A and `b` in B; `first` names one."""

    a: str
    b: str
    tensors: int
    first: str


@dataclass(frozen=True, slots=True)
class ArtifactDiff:
    """Differences of B from A. Sizes are in bytes by component, equal ones included; all else lists only differences.

    predictions: of B against A on the built-in text; None if they cannot be compared, and `not_compared` says why.
    """

    a: str
    b: str
    identical: bool
    method: Change | None
    schemes: tuple[SchemeChange, ...]
    sizes: tuple[Change, ...]
    files: tuple[Change, ...]
    notices_only_a: tuple[Notice, ...]
    notices_only_b: tuple[Notice, ...]
    versions: tuple[Change, ...]
    metrics: tuple[Change, ...]
    predictions: Comparison | None
    not_compared: str | None

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def diff_artifacts(
    a: Path,
    b: Path,
    *,
    max_tokens: int = MAX_TOKENS,
    threads: int | None = None,
    kernels: str | None = None,
) -> ArtifactDiff:
    """Compare two ONNX artifacts; A is the reference. InputError: one is no sound artifact."""
    manifests = open_artifact(a), open_artifact(b)
    configs = Qwen3Config.load(a), Qwen3Config.load(b)
    schemes = [Recipe.from_json(found.recipe).resolve(config) for found, config in zip(manifests, configs)]
    sizes = [_sizes(*found) for found in zip(manifests, configs, schemes)]
    obstacle = _obstacle(a, b, *configs)
    left, right = (manifest.as_found(folder) for manifest, folder in zip(manifests, (a, b)))
    return ArtifactDiff(
        a=shown_path(a),
        b=shown_path(b),
        identical=left.files == right.files,
        method=next(iter(_changes(_method(left), _method(right))), None),
        schemes=_scheme_changes(*map(_labels, schemes)),
        sizes=tuple(Change(name, sizes[0].get(name), sizes[1].get(name)) for name in sizes[0] | sizes[1]),
        files=tuple(_changes(left.files, right.files, lambda file: file.size)),
        notices_only_a=tuple(notice for notice in left.notices if notice not in right.notices),
        notices_only_b=tuple(notice for notice in right.notices if notice not in left.notices),
        versions=tuple(_changes(left.versions, right.versions)),
        metrics=tuple(_changes(_metrics(left), _metrics(right))),
        predictions=None if obstacle else _compare(a, b, configs[0], max_tokens, threads, kernels),
        not_compared=obstacle,
    )


def _method(manifest: Manifest) -> dict[str, str]:
    return {"method": Recipe.from_json(manifest.recipe).method}


def _changes(
    a: Mapping[str, Any], b: Mapping[str, Any], shown: Callable[[Any], Any] = lambda value: value
) -> Iterator[Change]:
    for name in sorted({*a, *b}):
        if a.get(name) != b.get(name):
            yield Change(name, *(shown(found[name]) if name in found else None for found in (a, b)))


def _labels(schemes: Mapping[str, Scheme | None]) -> dict[str, str]:
    return {name: scheme.label() if scheme else FLOAT_LABEL for name, scheme in schemes.items()}


def _scheme_changes(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[SchemeChange, ...]:
    pairs = [(name, a.get(name, "absent"), b.get(name, "absent")) for name in {**a, **b}]
    counts = Counter((old, new) for _, old, new in pairs if old != new)
    first = {(old, new): name for name, old, new in reversed(pairs)}
    return tuple(SchemeChange(*change, count, first[change]) for change, count in counts.most_common())


def _sizes(manifest: Manifest, config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> dict[str, int]:
    """Bytes of the weights as the recipe stores them, by component, and of graph and weights on disk."""
    sizes: Counter[str] = Counter()
    component = components(config)
    for name, size in weight_bytes(config, schemes).items():
        sizes[component[name]] += size
    return {**sizes, "graph and weights on disk": manifest.model_bytes}


def _metrics(manifest: Manifest) -> dict[str, Any]:
    return {_TEXT_KL.get(name, name): value for name, value in _flat(manifest.metrics)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested objects by their path, an estimate as its value.

    Reports by tensor (hundreds differ) and the sentences of checks (their digits differ) are left out.
    """
    if not isinstance(value, Mapping):
        yield path, value
    elif set(value) == {"value", "low", "high"}:
        yield path, value["value"]
    else:
        for key, inner in value.items():
            if key not in _LEFT_OUT:
                yield from _flat(inner, f"{path}.{key}" if path else key)


def _obstacle(a: Path, b: Path, config_a: Qwen3Config, config_b: Qwen3Config) -> str | None:
    if config_a != config_b and not (chooses_fewer(config_a, config_b) or chooses_fewer(config_b, config_a)):
        return "config.json differs: these are models of different shapes"
    tokenizers = [folder / TOKENIZER_FILE for folder in (a, b)]
    if not all(path.is_file() for path in tokenizers):
        return f"there is no {TOKENIZER_FILE} to read the text with"
    if tokenizers[0].read_bytes() != tokenizers[1].read_bytes():
        return f"{TOKENIZER_FILE} differs, so the same text is not the same tokens"
    return None


def _compare(
    a: Path, b: Path, config: Qwen3Config, max_tokens: int, threads: int | None, kernels: str | None
) -> Comparison:
    models = [ComparedDecoder(Decoder(folder, threads=threads, kernels=kernels)) for folder in (a, b)]
    (metrics,) = compare_models(text_windows(a, config, (), max_tokens), models)
    return summarize(metrics)
