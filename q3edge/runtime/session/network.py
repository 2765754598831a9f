"""Sessions of onnxruntime over an artifact's graph: options, weights that are lent to it, errors while it runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import onnxruntime as ort

from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError, shortage, unreadable
from q3edge.kernels.choice import ONNXRUNTIME
from q3edge.machine.cpu import int8_products_saturate
from q3edge.runtime.session.exact_activations import exact_experts, with_exact_activations
from q3edge.runtime.session.expert_graph import folded_tensors
from q3edge.runtime.session.graph_input import graph_names
from q3edge.runtime.session.heap import return_freed_memory
from q3edge.runtime.session.kept_room import remove_damaged
from q3edge.runtime.session.kernels import kernel_graph, ready_graph
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import CheckedGraph
from q3edge.runtime.session.offload import packed_on_disk, require_experts, stays_on_disk
from q3edge.runtime.session.packed_experts import PackedExperts
from q3edge.storage.whole_files import intended_path

_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"  # for a model given as bytes
_PACK_ON_ALL_THREADS = "session.prepack.enable_parallel"  # from onnxruntime 1.32 on; earlier ones ignore it
# Arm's KleidiAI kernels round activations per row in place of per block, at twice the error.
_NO_KLEIDIAI = "mlas.disable_kleidiai"
# A thread that waits for the others loops for so long before it sleeps. 50 spans the gaps in a pass while all cores are
# free; the default, with no end in sight, takes the core from whom it waits for where another process runs.
_SPIN_MICROSECONDS = "session.intra_op.spin_duration_us"
_DAMAGED = "pre-packed weights"  # in onnxruntime's message where those of a file are not what it would make
_NOT_LENT = "has experts that stay on the disk, and {!r} cannot be lent to onnxruntime; export again"
_FATAL_ONLY = 4  # onnxruntime would print every error that it also raises


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Session, the weights that it reads in place and that have to live as long, and whose kernels it has."""

    session: ort.InferenceSession
    weights: LentWeights
    kernels: str


def open_session(
    folder: Path,
    checked: CheckedGraph,
    model: Callable[[], bytes],
    threads: int,
    *,
    exact_activations: bool = False,
    offload: bool | None = False,
    kernels: str | None = None,
    keep: bool = False,
) -> OpenSession:
    """Open a session of the graph that `model` makes on the weights in `folder`, which are hashed meanwhile.

    exact_activations: block-quantized products read float32 activations in place of int8 ones. offload: experts stay on
    the disk (None: where they would not fit in memory). kernels: see `kernels.choice`. keep: for the next start, the
    graph with our operators in it, where `model` makes the same at every start.

    InputError: they were changed, or onnxruntime cannot load the model. ResourceError: memory or disk ran out.
    UsageError: offload is asked for a model without quantized experts, or kernels that cannot be had.
    """
    told = intended_path(folder)  # in notes: `build` opens a model before it has its name
    if exact_activations:
        kernels, keep = ONNXRUNTIME, False  # ours round
    ready = ready_graph(checked, kernels, threads) if keep and not offload else None
    made = cache(lambda: with_exact_activations(model()) if exact_activations else model())
    lent = LentWeights(folder / DATA_FILE, ready.graph.external_data if ready is not None else checked.external_data)
    if offload:
        require_experts(told, checked, made())
    with (
        ThreadPoolExecutor(1) as pool,
        return_freed_memory(),
        lent.folder(lambda: folded_tensors(made())) as data_folder,
        lent.drop_read_pages(),
        exact_experts() if exact_activations else nullcontext(),
    ):
        hashing = _Hashing(checked, pool)
        sparing = partial(_options, threads, lent, data_folder, sparing=True)
        with kernel_graph(
            told, checked, made, lent, sparing, kernels, threads, hashing.verify, ready, offload=offload, keep=keep
        ) as graph:
            changed, packed = graph.model, None
            experts = None if ready is not None else stays_on_disk(told, checked, changed, offload)
            if experts is not None:
                variant = "exact" if exact_activations else "rounded"
                lent.require_all(_NOT_LENT)
                packed = packed_on_disk(told, checked, made(), lent, experts, sparing, variant, hashing.verify)
                changed, data_folder = packed.applied_to(changed), packed.folder
            used = graph_names(changed)[1]
            options = _options(threads, lent, data_folder, used, sparing=packed is not None)
            if graph.library is not None:
                options.register_custom_ops_library(str(graph.library.path))
            try:
                session = ort.InferenceSession(changed, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's exceptions share no base class
                reason = _not_loaded(folder, error, packed)
                if isinstance(reason, InputError):
                    hashing.verify()  # damage explains more than what onnxruntime makes of it
                raise reason from None
            graph.load()
        hashing.finish()
    return OpenSession(session, lent, graph.kernels)


class _Hashing:
    """Check of the weights' sha256 beside other work, from now on; only if it is asked for where they were verified."""

    def __init__(self, checked: CheckedGraph, pool: ThreadPoolExecutor) -> None:
        self._checked, self._pool = checked, pool
        self._found = None if checked.verified else pool.submit(checked.verify_weights)

    def verify(self) -> None:
        """Hash them, or wait for it; InputError: they were changed."""
        self._found = self._found or self._pool.submit(self._checked.verify_weights)
        self._found.result()

    def finish(self) -> None:
        """Wait for what was begun; InputError: they were changed."""
        if self._found is not None:
            self._found.result()


def _not_loaded(folder: Path, error: Exception, packed: PackedExperts | None) -> Exception:
    path = folder / MODEL_FILE
    size = (folder / DATA_FILE).stat().st_size
    if short := shortage(error, f"{path} is loaded in about {2 * size / 2**30:.1f} GiB, twice its weights"):
        return short
    if packed is not None and _DAMAGED in str(error):
        return remove_damaged(packed.folder)
    return InputError(f"{path}: onnxruntime {ort.__version__} cannot load it ({_one_line(error)})")


def failed_run(path: Path, error: RuntimeError) -> Exception:
    """Make the error for a graph that fails while it runs, from what onnxruntime raises there."""
    return unreadable(
        f"{path}: onnxruntime {ort.__version__} fails while it runs ({_one_line(error)}); export again", error
    )


def _options(
    threads: int, lent: LentWeights, data_folder: Path, only: frozenset[str] | None = None, *, sparing: bool
) -> ort.SessionOptions:
    """Make options of a session that is lent weights (all, or `only` some); sparing: of memory, at the cost of time."""
    options = ort.SessionOptions()
    lent.lend(options, only)
    options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, str(data_folder))
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = False  # it would keep one memory plan per sequence length
    options.add_session_config_entry(_PACK_ON_ALL_THREADS, "0" if sparing else "1")
    options.add_session_config_entry(_NO_KLEIDIAI, "1")
    options.add_session_config_entry(_SPIN_MICROSECONDS, "50")
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
