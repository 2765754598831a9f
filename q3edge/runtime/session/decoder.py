"""`Decoder`: the network of an artifact on onnxruntime, and its `KVCache`. Token ids in, logits out.

Owns the session, its options, and the binding of one buffer as both past and present. Checking the files is the
loader's, choosing tokens is sampling's, the loop over tokens is generate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, PAST_PREFIX, KVCacheSpec
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError, UsageError
from q3edge.formats import CacheType
from q3edge.machine.cpu import default_threads, int8_products_saturate
from q3edge.runtime.session.exact_activations import with_exact_activations
from q3edge.runtime.session.heap import freed_memory_given_back
from q3edge.runtime.session.lent_weights import LentWeights
from q3edge.runtime.session.loader import CheckedGraph, open_graph

GROWTH_STEP = 256  # tokens: a question and a short answer fit without growing
_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"  # for a model given as bytes
_PACK_ON_ALL_THREADS = "session.prepack.enable_parallel"  # from onnxruntime 1.32 on; earlier ones ignore it
_FATAL_ONLY = 4  # onnxruntime would print every error that it also raises


class KVCache:
    """Keys and values of up to `capacity` tokens for `batch_size` sequences, which may differ in length.

    The memory is zero pages until tokens fill it, so a large capacity costs address space, not RAM.
    """

    def __init__(
        self, session: ort.InferenceSession, spec: KVCacheSpec, capacity: int, batch_size: int, context: int
    ) -> None:
        self.capacity, self.batch_size = capacity, batch_size
        # A list, as the first numpy calls after a pass take tens of microseconds each (docs/lab-log.md).
        self.lengths = [0] * batch_size
        self._spec, self._context = spec, context
        self._ones = np.ones((1, capacity), np.int64)
        self._keep = np.zeros(1, np.int64)  # bound once, written before each pass
        self._out: NDArray[np.float32] | None = None  # the caller's array, if that is what is bound
        self._binding = session.io_binding()
        _bind(self._binding.bind_input, NUM_LOGITS_TO_KEEP, self._keep)
        self._buffers: dict[tuple[str, str], NDArray[np.generic]] = {}
        for layer in spec.layers:
            for names in zip(spec.past(layer), spec.present(layer)):
                self._hold(names, np.zeros(spec.shape(batch_size, capacity), spec.dtype))

    @property
    def length(self) -> int:
        """Tokens held by the longest sequence."""
        return max(self.lengths)

    def truncate(self, length: int) -> None:
        """Forget every token after the first `length` of each sequence."""
        self.lengths = [min(held, length) for held in self.lengths]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens of each sequence and keep what is there; UsageError: beyond the context.

        The capacity at least doubles, so that over its whole life a cache copies each token about once, and is a
        multiple of GROWTH_STEP unless the context ends before. Only one buffer at a time exists twice.
        """
        if tokens <= self.capacity:
            return
        _check_context(tokens, self._context)
        steps = -(-max(tokens, 2 * self.capacity) // GROWTH_STEP)
        capacity = min(steps * GROWTH_STEP, self._context)
        for names, old in self._buffers.items():
            new = np.zeros(self._spec.shape(self.batch_size, capacity), self._spec.dtype)
            new[:, :, : self.length] = old[:, :, : self.length]
            self._hold(names, new)
        self._ones = np.ones((1, capacity), np.int64)
        self.capacity = capacity  # only now: were memory to run out in between, what is held would still be sound

    def _mask(self, lengths: Sequence[int], total: int) -> NDArray[np.int64]:
        """Of `total` positions in each row, 1 where one of the first `lengths` of them is; int64 [B, total]."""
        if self.batch_size == 1 and lengths[0] == total:  # each decoded token: not to be computed
            return self._ones[:, :total]
        return (np.arange(total) < np.array(lengths)[:, None]).astype(np.int64)

    def _hold(self, names: tuple[str, str], buffer: NDArray[np.generic]) -> None:
        """Keep `buffer` as both the past and the present that have these names."""
        past, present = names
        _bind(self._binding.bind_input, past, buffer)
        _bind(self._binding.bind_output, present, buffer)
        self._buffers[names] = buffer


class Decoder:
    """One exported model, loaded. Safe to use from several threads, each with its own cache."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        exact_activations: bool = False,
        checked: CheckedGraph | None = None,
    ) -> None:
        """Check and load `folder`; `threads` defaults to the physical cores this process may use.

        `exact_activations` computes block-quantized products with float instead of int8 activations, to tell the
        kernel's error from the weights'. `checked`: what open_graph(folder) gave, if already called.
        InputError: what open_artifact refuses, or onnxruntime does.
        """
        checked = checked or open_graph(folder)
        self.manifest = checked.manifest
        self.config = Qwen3Config.load(folder)
        self.threads = threads or default_threads()
        path = folder / MODEL_FILE
        options = _session_options(self.threads)
        model: Path | bytes = path
        if exact_activations:
            model = with_exact_activations(path.read_bytes())
            options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, str(path.parent))
        # onnxruntime reads what is not packed for as long as the session lives.
        self._weights = LentWeights(folder / DATA_FILE, checked.external_data)
        self._weights.lend(options)
        with ThreadPoolExecutor(1) as pool, freed_memory_given_back(), self._weights.read_pages_dropped():
            weights = pool.submit(self.manifest.verify_content, folder, DATA_FILE)
            try:
                self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's exceptions share no base class
                weights.result()  # damage explains more than what onnxruntime makes of it
                raise InputError(f"{path}: onnxruntime {ort.__version__} cannot load it ({_one_line(error)})") from None
            weights.result()
        self.cache_spec = KVCacheSpec.of(self.config, _cache_type(self._session))
        _check_signature(path, self._session, self.cache_spec)

    def new_cache(self, capacity: int, batch_size: int = 1) -> KVCache:
        """An empty cache; UsageError if `capacity` is more than the model's context."""
        context = self.config.max_position_embeddings
        _check_context(capacity, context)
        return KVCache(self._session, self.cache_spec, capacity, batch_size, context)

    def forward(
        self,
        input_ids: NDArray[np.int64],
        cache: KVCache,
        *,
        keep: int = 1,
        counts: Sequence[int] | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Append `input_ids` int64 [B, S] to the cache; logits float32 [B, keep, V] of the last positions (0: all S).

        `counts` tells how many leading tokens of each row are real (right padding; default all S). `out`, of
        the result's shape and contiguous, is written and returned instead of a new array; giving the same one again
        saves time. A batch of several rows takes more than one token a row only into an empty cache. UsageError: the
        cache is full.
        """
        rows, columns = input_ids.shape
        if rows != cache.batch_size or (rows > 1 and columns > 1 and cache.length > 0):
            raise ValueError(f"input [{rows}, {columns}] for {cache.batch_size} sequences of length {cache.length}")
        total = cache.length + columns
        if total > cache.capacity:
            raise UsageError(f"the cache holds {cache.capacity} tokens and {total} are needed; make a larger one")
        new = [columns] * rows if counts is None else counts
        lengths = [held + more for held, more in zip(cache.lengths, new, strict=True)]
        shape = (rows, min(keep or columns, columns), self.config.vocab_size)
        logits = np.empty(shape, np.float32) if out is None else out
        if logits.shape != shape or logits.dtype != np.float32 or not logits.flags.c_contiguous:
            raise ValueError(f"out is {logits.dtype} {logits.shape}, but the logits are float32 {shape}")
        binding = cache._binding
        binding.bind_cpu_input(INPUT_IDS, np.ascontiguousarray(input_ids, np.int64))
        binding.bind_cpu_input(ATTENTION_MASK, cache._mask(lengths, total))
        cache._keep[0] = keep
        if logits is not cache._out:
            _bind(binding.bind_output, LOGITS, logits)
            cache._out = out
        self._session.run_with_iobinding(binding)
        cache.lengths = lengths
        return logits


def _check_context(tokens: int, context: int) -> None:
    if tokens > context:
        raise UsageError(f"{tokens} tokens asked for, but the model's context is {context}; ask for fewer")


def _bind(bind: object, name: str, array: NDArray[np.generic]) -> None:
    """Lend `array`'s memory to onnxruntime; the caller keeps it alive for as long as the binding is used."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)  # type: ignore[operator]


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = False  # it would keep one memory plan per sequence length
    options.add_session_config_entry(_PACK_ON_ALL_THREADS, "1")
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _cache_type(session: ort.InferenceSession) -> CacheType:
    """What the first of the past's inputs says."""
    types = (node.type for node in session.get_inputs() if node.name.startswith(PAST_PREFIX))
    return "int8" if next(types, "") == "tensor(int8)" else "float32"


def _check_signature(path: Path, session: ort.InferenceSession, spec: KVCacheSpec) -> None:
    layers = spec.layers
    inputs = {INPUT_IDS, ATTENTION_MASK} | {name for layer in layers for name in spec.past(layer)}
    outputs = {LOGITS} | {name for layer in layers for name in spec.present(layer)}
    # num_logits_to_keep has a default, which onnxruntime lists among the overridable initializers.
    found_inputs = {node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())}
    found_outputs = {node.name for node in session.get_outputs()}
    different = (found_inputs ^ (inputs | {NUM_LOGITS_TO_KEEP})) | (found_outputs ^ outputs)
    if different:
        names = ", ".join(sorted(different)[:4])
        raise InputError(
            f"{path}: inputs or outputs differ from a {len(spec.layers)}-layer decoder's ({names}); export again"
        )
    for node in session.get_inputs():
        if node.name.startswith(PAST_PREFIX) and list(node.shape[1::2]) != [spec.kv_heads, spec.head_dim]:
            raise InputError(
                f"{path}: {node.name} is {node.shape}, config.json says {spec.shape(1, 1)[1::2]}; export again"
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
