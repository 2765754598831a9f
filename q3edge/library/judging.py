"""Public functions that measure models: inspect, zoo, validate, evaluate, check, diff, bench.

Where they take the folder of an ONNX model, the id of one on the hub does as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from q3edge.defaults import BENCH_NEW, BENCH_PROMPT, BENCH_REPEATS, MAX_TOKENS, MIN_TOKENS_PER_SECOND
from q3edge.errors import UsageError
from q3edge.library.arguments import public
from q3edge.library.requests import (
    Budgets,
    PathLike,
    PathLikes,
    artifact_at,
    measuring_for,
    parse_size,
    paths,
    starting,
    starting_from,
)
from q3edge.progress import Listener

if TYPE_CHECKING:
    from q3edge.evaluation.scorecard.scorecard import Scorecard
    from q3edge.evaluation.validation.embeddings import EmbeddingReport
    from q3edge.evaluation.validation.results import ValidationReport
    from q3edge.pipeline.inspect import Inspection
    from q3edge.pipeline.measure.bench import BenchResult
    from q3edge.pipeline.measure.diff import ArtifactDiff
    from q3edge.pipeline.measure.gate import GateReport
    from q3edge.pipeline.zoo import Zoo


@public()
def inspect(model: PathLike) -> Inspection:
    """Tell what the checkpoint `model` (folder or hub id) is, and the size, RAM, speed and time of each format.

    Reads headers only. Raises InputError.
    """
    from q3edge.pipeline.inspect import inspect_model

    return inspect_model(str(model))


@public()
def zoo(
    name: str | None = None,
    *,
    ram: str | int | None = None,
    disk: str | int | None = None,
    min_tokens_per_second: float = MIN_TOKENS_PER_SECOND,
) -> Zoo:
    """Predict what the Qwen3 models take on this machine, and which fit; or the model `name` alone, by its short name.

    ram, disk: sizes such as "8GB", or bytes, that a finished model may take (None: what is there). Needs no network.
    Raises UsageError.
    """
    from q3edge.pipeline.zoo import visit_zoo

    return visit_zoo(
        name,
        ram_bytes=None if ram is None else parse_size(ram, "--ram"),
        disk_bytes=None if disk is None else parse_size(disk, "--disk"),
        min_tokens_per_second=min_tokens_per_second,
    )


@public()
def validate(
    folder: PathLike,
    reference: PathLike,
    *,
    texts: PathLikes = (),
    max_tokens: int = MAX_TOKENS,
    max_kl: float | None = None,
    threads: int | None = None,
    kernels: str | None = None,
    progress: bool | Listener = False,
) -> ValidationReport | EmbeddingReport:
    """Compare the ONNX model in `folder` with the float checkpoint `reference` (folder or hub id) on text.

    Of an embedding model the vectors are compared, and which texts they find. kernels: as for `load`.

    A check that fails, such as a mean KL divergence above `max_kl` nats, is in the report's `failures`, not raised.
    Raises UsageError, InputError, ResourceError.
    """
    starting_from("validate", reference)
    from q3edge.pipeline.measure.validate import validate_against

    return validate_against(
        artifact_at(folder), str(reference), paths(texts), max_tokens=max_tokens, max_kl=max_kl, threads=threads,
        kernels=kernels,
    )  # fmt: skip


@public()
def evaluate(
    folder: PathLike,
    reference: PathLike,
    *,
    suites: PathLikes = (),
    areas: str | Sequence[str] | None = None,
    limit: int | None = None,
    generate: int | None = None,
    allow_code: bool = False,
    thinking_budgets: Budgets | None = None,
    cache: bool = True,
    threads: int | None = None,
    kernels: str | None = None,
    progress: bool | Listener = False,
) -> Scorecard:
    """Compare the ONNX model in `folder` with `reference`, a float checkpoint or another ONNX model, area by area.

    suites: files of questions or text (none: built in); limit: of each at most so many questions and windows of text.
    generate: both also generate answers, of up to so many tokens. thinking_budgets: the model also answers with each of
    them, in tokens; 0: no thinking, None: no limit; the scorecard's `thinking_budgets` say how often it is right and
    how long it takes. kernels: of ONNX models, as for `load`. The scorecard's `checks` say whether the model looks
    broken. Raises UsageError, InputError, ResourceError, and ValidationError if no item had finite logits.
    """
    starting_from("eval", reference)
    from q3edge.pipeline.measure.measurement import evaluate_with

    measuring = measuring_for(
        reference, suites, areas, limit, generate, allow_code, cache, threads, kernels,
        thinking_budgets=thinking_budgets,
    )  # fmt: skip
    return evaluate_with(artifact_at(folder), measuring)


@public()
def check(
    folder: PathLike,
    *,
    max_kl: float | None = None,
    min_recovery: float | None = None,
    reference: PathLike | None = None,
    scorecard: PathLike | None = None,
    suites: PathLikes = (),
    areas: str | Sequence[str] | None = None,
    limit: int | None = None,
    generate: int | None = None,
    allow_code: bool = False,
    cache: bool = True,
    threads: int | None = None,
    kernels: str | None = None,
    progress: bool | Listener = False,
) -> GateReport:
    """Tell whether the ONNX model in `folder` is accurate enough; `failures` of the result is empty where it is.

    The numbers come from an evaluation against `reference`, or from the JSON file `scorecard`, else from what `build`
    measured. max_kl is in nats, min_recovery in percent. Raises UsageError if a number was not measured, InputError.
    """
    from q3edge.pipeline.measure.gate import check_artifact
    from q3edge.report.gates import Gates

    if max_kl is None and min_recovery is None:
        raise UsageError("nothing to check: give --max-kl, --min-recovery or both")
    if reference is not None and scorecard is not None:
        raise UsageError("--reference measures and --scorecard reads what was measured: give one")
    measuring = measuring_for(reference, suites, areas, limit, generate, allow_code, cache, threads, kernels)
    file = None if scorecard is None else Path(scorecard)
    return check_artifact(artifact_at(folder), Gates(min_recovery, max_kl), measuring, scorecard=file)


@public()
def diff(
    a: PathLike,
    b: PathLike,
    *,
    max_tokens: int = MAX_TOKENS,
    threads: int | None = None,
    kernels: str | None = None,
    progress: bool | Listener = False,
) -> ArtifactDiff:
    """Tell what changed from the ONNX model in `a` to the one in `b`, and how far `b`'s predictions are from `a`'s.

    kernels: as for `load`. Raises InputError.
    """
    starting("diff", a, b)
    from q3edge.pipeline.measure.diff import diff_artifacts

    return diff_artifacts(artifact_at(a), artifact_at(b), max_tokens=max_tokens, threads=threads, kernels=kernels)


@public()
def bench(
    folder: PathLike,
    *,
    prompt: int = BENCH_PROMPT,
    new: int = BENCH_NEW,
    depths: Sequence[int] | None = None,
    repeats: int = BENCH_REPEATS,
    threads: int | None = None,
    offload: bool | None = None,
    kernels: str | None = None,
    progress: bool | Listener = False,
) -> BenchResult:
    """Time the ONNX model in `folder`, in `repeats` processes: a prefill of `prompt` tokens, then `new` tokens.

    depths: tokens of context before the new ones (None: 0, 512 and 4096, as far as the model's context goes).
    offload: leave a mixture's experts on the disk (None: where they would not fit in memory). kernels: as for
    `load`. Raises UsageError where they do not fit into the context, or offload without experts; InputError.
    """
    from q3edge.pipeline.measure.bench import bench_artifact

    return bench_artifact(
        artifact_at(folder), prompt=prompt, new=new, depths=depths, threads=threads, repeats=repeats, offload=offload,
        kernels=kernels,
    )  # fmt: skip
