"""Public functions that write models: quantize, export, build, demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from q3edge.defaults import DEMO_FOLDER, MAX_TOKENS, SAMPLES, SEQ_LEN
from q3edge.formats import FLOAT, CacheType, ExpertOperators, OtherFormat, Program
from q3edge.library.arguments import public
from q3edge.library.requests import (
    Method,
    PathLike,
    PathLikes,
    budget_for,
    calibration_for,
    paths,
    recipe_for,
    refuse_for_float,
    require_no_format,
    require_no_onnx_options,
    starting,
    starting_from,
)
from q3edge.progress import Listener

if TYPE_CHECKING:
    from q3edge.artifact import Manifest
    from q3edge.pipeline.build import BuildResult
    from q3edge.pipeline.demo import DemoResult, DemoRow
    from q3edge.quantization.recipe import Recipe


@public()
def quantize(
    model: PathLike,
    output: PathLike,
    recipe: Recipe | PathLike | None = None,
    *,
    group_size: int | None = None,
    symmetric: bool | None = None,
    method: Method | None = None,
    kv_cache: CacheType | None = None,
    calibration: PathLikes = (),
    samples: int = SAMPLES,
    seq_len: int = SEQ_LEN,
    seed: int = 0,
    restart: bool = False,
    reconstruct: bool = False,
    tune: bool = False,
    target_size: str | int | None = None,
    target_bpw: float | None = None,
    for_program: Program | None = None,
    overwrite: bool = False,
    scheduler: str | None = None,
    progress: bool | Listener = False,
) -> Manifest:
    """Quantize the float checkpoint `model` (folder or hub id) into the folder `output`.

    The layout is that of compressed-tensors. recipe: a Recipe, a format's name (default: int4-mixed) or the path of a
    TOML file. calibration: files or folders of text (none: built in), of which `samples` rows of `seq_len` tokens are
    taken. target_size: bytes of the exported model, or "350MB"; target_bpw: the same in bits per weight; either chooses
    the formats itself. for_program: "gguf" chooses formats for `export(to="gguf")`, whose bytes then count in place of
    the ONNX model's; "vllm" the one that vLLM loads whole, for `export(to="compressed-tensors")`. reconstruct: train
    each layer; tune: train scales and norms of the whole model. scheduler: address of a Dask scheduler, whose workers
    calibrate.
    Returns the manifest that was written. Raises UsageError, InputError, ResourceError; then `output` is as it was.
    """
    if for_program == "vllm":
        require_no_format(for_program, method, recipe, group_size, symmetric, kv_cache, target_size, target_bpw)
    starting_from("quantize", model)
    from q3edge.pipeline.quantize.quantize import quantize_checkpoint

    budget = budget_for(target_size, target_bpw, recipe, group_size, symmetric)
    return quantize_checkpoint(
        str(model),
        Path(output),
        recipe_for(recipe, group_size, symmetric, method, kv_cache, for_program),
        calibration_for(
            calibration, samples, seq_len, seed,
            reconstruct=reconstruct, tune=tune, restart=restart, budget=budget,
        ),
        program=for_program,
        overwrite=overwrite,
    )  # fmt: skip


@public()
def export(
    source: PathLike,
    output: PathLike,
    *,
    as_float: bool = False,
    to: OtherFormat | None = None,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
    experts_per_token: int | None = None,
    overwrite: bool = False,
    progress: bool | Listener = False,
) -> Manifest:
    """Export what `quantize` wrote, or with `as_float` a float checkpoint, as an ONNX model in the folder `output`.

    to: "gguf" writes a model for llama.cpp instead, "mlx", "gptq" and "compressed-tensors" for mlx-lm, GPTQModel and
    vLLM, with the same codes; the options of ONNX models do not apply.
    last_logits: the graph gives logits of the last position only, for runtimes that cannot ask for it.
    experts: "plain" gives a mixture of experts an MLP for each, for runtimes without onnxruntime's operator QMoE.
    experts_per_token: fewer than a mixture of experts was trained with, which is faster and further from it.
    The model is not run here; `validate` measures its accuracy. Returns the manifest that was written.
    Raises UsageError, InputError, ResourceError; then `output` is as it was.
    """
    if to is not None:
        require_no_onnx_options(to, last_logits, experts, experts_per_token)
        from q3edge.pipeline.export_other import export_other

        return export_other(str(source), Path(output), to, as_float=as_float, overwrite=overwrite)
    from q3edge.pipeline.export import export_artifact

    return export_artifact(
        str(source),
        Path(output),
        as_float=as_float,
        last_logits=last_logits,
        experts=experts,
        experts_per_token=experts_per_token,
        overwrite=overwrite,
    )


@public()
def build(
    model: PathLike,
    output: PathLike,
    recipe: Recipe | PathLike | None = None,
    *,
    group_size: int | None = None,
    symmetric: bool | None = None,
    method: Method | None = None,
    kv_cache: CacheType | None = None,
    calibration: PathLikes = (),
    samples: int = SAMPLES,
    seq_len: int = SEQ_LEN,
    seed: int = 0,
    restart: bool = False,
    reconstruct: bool = False,
    tune: bool = False,
    target_size: str | int | None = None,
    target_bpw: float | None = None,
    texts: PathLikes = (),
    max_tokens: int = MAX_TOKENS,
    max_kl: float | None = None,
    threads: int | None = None,
    last_logits: bool = False,
    experts: ExpertOperators = "qmoe",
    experts_per_token: int | None = None,
    overwrite: bool = False,
    scheduler: str | None = None,
    progress: bool | Listener = False,
) -> BuildResult:
    """Turn the float checkpoint `model` (folder or hub id) into a verified ONNX model in the folder `output`.

    Quantizes as `quantize` does (recipe "float" keeps the weights), exports, and validates on `texts` (none: built in).
    last_logits, experts, experts_per_token: as in `export`; scheduler: as in `quantize`.
    Returns the manifest that was written and the validation report. Raises UsageError, InputError, ResourceError, and
    ValidationError where a check fails or the mean KL divergence is above `max_kl`; then `output` is as it was.
    """
    starting_from("build", model)
    from q3edge.kernels.choice import choose
    from q3edge.pipeline.build import build_artifact

    choose()  # a wrong $Q3EDGE_KERNELS is refused before the work, not behind it
    budget = budget_for(target_size, target_bpw, recipe, group_size, symmetric)
    options = calibration_for(
        calibration, samples, seq_len, seed, reconstruct=reconstruct, tune=tune, restart=restart, budget=budget
    )
    if recipe == FLOAT:
        refuse_for_float(options, group_size=group_size, symmetric=symmetric, method=method, kv_cache=kv_cache)
    return build_artifact(
        str(model),
        Path(output),
        None if recipe == FLOAT else recipe_for(recipe, group_size, symmetric, method, kv_cache),
        options,
        texts=paths(texts),
        max_tokens=max_tokens,
        max_kl=max_kl,
        threads=threads,
        last_logits=last_logits,
        experts=experts,
        experts_per_token=experts_per_token,
        overwrite=overwrite,
    )


@public()
def demo(
    output: PathLike = DEMO_FOLDER,
    *,
    threads: int | None = None,
    moe: bool = False,
    quick: bool = False,
    on_row: Callable[[DemoRow], None] | None = None,
    progress: bool | Listener = False,
) -> DemoResult:
    """Build the small embedded model as float, int8, int4 and int2 below the folder `output`, and evaluate each.

    threads: of torch and of onnxruntime. moe: the embedded mixture of experts in place of the dense model. quick: a
    fifth of the questions. on_row: called with a format's results as soon as they are known. Models of an earlier demo
    there are replaced. Needs no network.
    """
    starting("demo")
    from q3edge.kernels.choice import choose
    from q3edge.pipeline.demo import run_demo

    choose()  # as in `build`
    return run_demo(Path(output), threads=threads, moe=moe, quick=quick, on_row=on_row or (lambda _row: None))
