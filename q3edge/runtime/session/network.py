"""Sessions of onnxruntime over an artifact's graph: options, weights that are lent to it, errors while it runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import onnxruntime as ort

from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError, shortage, unreadable
from q3edge.machine.cpu import int8_products_saturate
from q3edge.runtime.session.exact_activations import exact_experts, with_exact_activations
from q3edge.runtime.session.heap import return_freed_memory
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import CheckedGraph

_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"  # for a model given as bytes
_PACK_ON_ALL_THREADS = "session.prepack.enable_parallel"  # from onnxruntime 1.32 on; earlier ones ignore it
# Arm's KleidiAI kernels round activations per row in place of per block, at twice the error.
_NO_KLEIDIAI = "mlas.disable_kleidiai"
# A thread that waits for the others loops for so long before it sleeps. 50 spans the gaps in a pass while all cores are
# free; the default, with no end in sight, takes the core from whom it waits for where another process runs.
_SPIN_MICROSECONDS = "session.intra_op.spin_duration_us"
_FATAL_ONLY = 4  # onnxruntime would print every error that it also raises


def open_session(
    folder: Path, checked: CheckedGraph, model: bytes, threads: int, *, exact_activations: bool = False
) -> tuple[ort.InferenceSession, LentWeights]:
    """Open a session of the graph `model` on the weights in `folder`, which are hashed meanwhile.

    exact_activations: block-quantized products read float32 activations in place of int8 ones.

    Returns also the weights, which have to live as long: onnxruntime reads those that it does not pack. InputError:
    they were changed, or onnxruntime cannot load the model. ResourceError: memory ran out.
    """
    path, options = folder / MODEL_FILE, _options(threads)
    if exact_activations:
        model = with_exact_activations(model)
    lent = LentWeights(folder / DATA_FILE, checked.external_data)
    lent.lend(options)
    with (
        ThreadPoolExecutor(1) as pool,
        return_freed_memory(),
        lent.folder() as data_folder,
        lent.drop_read_pages(),
        exact_experts() if exact_activations else nullcontext(),
    ):
        options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, str(data_folder))
        weights = pool.submit(checked.manifest.verify_content, folder, DATA_FILE)
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            size = (folder / DATA_FILE).stat().st_size
            if short := shortage(error, f"{path} is loaded in about {2 * size / 2**30:.1f} GiB, twice its weights"):
                raise short from None
            weights.result()  # damage explains more than what onnxruntime makes of it
            raise InputError(f"{path}: onnxruntime {ort.__version__} cannot load it ({_one_line(error)})") from None
        weights.result()
    return session, lent


def failed_run(path: Path, error: RuntimeError) -> Exception:
    """Make the error for a graph that fails while it runs, from what onnxruntime raises there."""
    return unreadable(
        f"{path}: onnxruntime {ort.__version__} fails while it runs ({_one_line(error)}); export again", error
    )


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = False  # it would keep one memory plan per sequence length
    options.add_session_config_entry(_PACK_ON_ALL_THREADS, "1")
    options.add_session_config_entry(_NO_KLEIDIAI, "1")
    options.add_session_config_entry(_SPIN_MICROSECONDS, "50")
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
