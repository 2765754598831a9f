"""`Decoder`: the network of an artifact on onnxruntime. Token ids in, logits out.

Keys and values of earlier tokens are in a `KVCache`. Checks of the files are in `loader`, sessions in `network`;
sampling is in `generation.sampling`, and what a pass holds is decided in `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, PAST_PREFIX, KVCacheSpec
from q3edge.artifact import DATA_FILE, MODEL_FILE, Manifest
from q3edge.errors import InputError, UsageError
from q3edge.formats import CacheType
from q3edge.kernels.choice import facts_of_used
from q3edge.machine.cpu import default_threads, slow_block_products
from q3edge.runtime.session.attention_graph import ROW_STARTS
from q3edge.runtime.session.idle_rows import QUERY_SEQLENS, with_idle_rows
from q3edge.runtime.session.kv_cache import KVCache
from q3edge.runtime.session.loader import CheckedGraph, open_graph
from q3edge.runtime.session.logits_to_keep import with_logits_to_keep
from q3edge.runtime.session.network import failed_run, open_session
from q3edge.storage.digests import json_digest


class Decoder:
    """Loaded network of an exported model. Safe to use from several threads, each with its own cache."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        exact_activations: bool = False,
        offload: bool | None = None,
        kernels: str | None = None,
        checked: CheckedGraph | None = None,
    ) -> None:
        """Check and load `folder`; `threads` defaults to the physical cores this process may use.

        `exact_activations` computes block-quantized products with float32 instead of int8 activations, to separate the
        kernel's error from the weights'. `offload`: experts stay on the disk (None: where they would not fit in
        memory). `kernels`: "auto", "onnxruntime" or "q3edge", see `kernels.choice`. `checked`: the result of
        open_graph(folder), if already called. InputError: a file is missing, changed or unlisted in the manifest, or
        onnxruntime cannot load the model. UsageError: offload, and no experts; or kernels that cannot be had.
        """
        checked = checked or open_graph(folder)
        self.manifest = checked.manifest
        self.config = Qwen3Config.load(folder)
        self.threads = threads or default_threads()
        self._path = path = folder / MODEL_FILE
        opened = open_session(
            folder,
            checked,
            lambda: with_idle_rows(with_logits_to_keep(path.read_bytes())),
            self.threads,
            exact_activations=exact_activations,
            offload=offload,
            kernels=kernels,
            keep=True,
        )
        self._session, self._weights, self.kernels = opened.session, opened.weights, opened.kernels
        files = [checked.manifest.files[name].sha256 for name in (MODEL_FILE, DATA_FILE)]
        # Of what decides the keys and values of a text: hex sha256.
        self.digest = json_digest([*files, exact_activations, facts_of_used(self.kernels)])
        self.cache_spec = KVCacheSpec.of(self.config, _cache_type(self._session))
        # Whether rows of a pass may be idle; False for a graph whose attention is not as q3edge writes it.
        inputs = {node.name for node in self._session.get_inputs()}
        self.idle_rows = QUERY_SEQLENS in inputs
        self.any_rows = ROW_STARTS in inputs  # whether rows of a pass may have any tokens each: `forward_rows`
        _check_signature(path, self._session, self.cache_spec)

    def new_cache(self, capacity: int, batch_size: int = 1) -> KVCache:
        """Create an empty cache with `batch_size` rows, all taken; UsageError: `capacity` exceeds the context."""
        context = self.config.max_position_embeddings
        asked = {"counts": self.idle_rows, "starts": self.any_rows}
        return KVCache(self._session, self.cache_spec.buffers(), capacity, batch_size, context, **asked)

    def forward(
        self,
        input_ids: NDArray[np.int64],
        cache: KVCache,
        *,
        keep: int = 1,
        counts: Sequence[int] | None = None,
        out: NDArray[np.float32] | None = None,
        first_row: int = 0,
    ) -> NDArray[np.float32]:
        """Append `input_ids` int64 [B, S] to B rows of the cache, from `first_row` on, all of them taken.

        Returns the logits float32 [B, keep, V] of the last positions (0: all S). `counts`: the number of leading tokens
        of each row that are real (right padding; default all S). Where each row has one token, a count of 0 leaves a
        row idle, if `idle_rows`: it need not be taken, nothing of it is read or written, and its logits mean nothing.
        `out`, of the result's shape and contiguous, is written and returned instead of a new array; the same one again
        saves time. Several rows take more than one token each only while they are empty, unless `any_rows`.

        UsageError: the cache is full. ValueError: unfit rows or `out`. InputError: the graph fails while it runs.
        ResourceError: memory ran out.
        """
        rows, columns = input_ids.shape
        new = [columns] * rows if counts is None else counts
        may_be_idle = self.idle_rows and columns == 1
        cache.check_taken(first_row, rows, {first_row + i for i, count in enumerate(new) if may_be_idle and not count})
        cached = cache.lengths[first_row : first_row + rows]
        longest = max((old for old, count in zip(cached, new, strict=True) if count), default=0)
        if rows > 1 and columns > 1 and longest > 0 and not self.any_rows:
            raise ValueError(f"input [{rows}, {columns}] behind {longest} tokens: give one row, or one token each")
        shape = (rows, min(keep or columns, columns), self.config.vocab_size)
        logits = np.empty(shape, np.float32) if out is None else out
        if logits.shape != shape or logits.dtype != np.float32 or not logits.flags.c_contiguous:
            raise ValueError(f"out is {logits.dtype} {logits.shape}, but the logits are float32 {shape}")
        starts = range(0, rows * columns, columns)
        self._run(input_ids, cache, first_row, new, starts, longest + columns, keep, logits, lent=out is not None)
        return logits

    def forward_rows(
        self, tokens: Mapping[int, Sequence[int]], cache: KVCache, *, out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Append tokens, at least one each, to taken rows of the cache, in one pass without padding, if `any_rows`.

        Fills and returns `out` float32 [1, keep, V], contiguous: logits of the last `keep` of all tokens, in the order
        of `tokens`. Errors: as `forward`.
        """
        first, end = min(tokens), max(tokens) + 1
        counts = [len(tokens.get(row, ())) for row in range(first, end)]
        cache.check_taken(first, end - first, {first + i for i, count in enumerate(counts) if not count})
        starts, all_ids = [0] * len(counts), list[int]()
        for row, ids in tokens.items():
            starts[row - first] = len(all_ids)
            all_ids += ids
        total = max(cache.lengths[row] + len(ids) for row, ids in tokens.items())
        self._run(np.array([all_ids], np.int64), cache, first, counts, starts, total, out.shape[1], out, lent=True)
        return out

    def _run(
        self,
        input_ids: NDArray[np.int64],
        cache: KVCache,
        first_row: int,
        counts: Sequence[int],
        starts: Sequence[int],
        total: int,
        keep: int,
        logits: NDArray[np.float32],
        *,
        lent: bool,
    ) -> None:
        """Run a pass as `BoundRows.run` does; `total`: tokens of the longest row with its new ones, or more."""
        if total > cache.capacity:
            raise UsageError(f"the cache holds {cache.capacity} tokens and {total} are needed; make a larger one")
        rows = slice(first_row, first_row + len(counts))
        lengths = [old + count for old, count in zip(cache.lengths[rows], counts)]
        # An idle row is one of one token that has been computed, whatever it holds: nothing depends on its length.
        mask = cache.mask([length if count else 1 for length, count in zip(lengths, counts)], total)
        bound = cache.bound(first_row, len(counts))
        try:
            bound.run(input_ids, mask, counts, starts, keep, logits, lent=lent)
        except RuntimeError as error:  # all that onnxruntime raises there
            raise failed_run(self._path, error) from error
        cache.lengths[rows] = lengths


def note_slow_products(manifest: Manifest) -> None:
    """Say so where this CPU computes block-quantized products slowly and the artifact's layers have them."""
    schemes = [rule["scheme"] for rule in manifest.recipe.get("rules", ()) if rule["scheme"]]
    int8_dynamic = any(scheme.get("group_size") is None for scheme in schemes)  # only its table is in blocks
    if schemes and not int8_dynamic and (slow := slow_block_products()):
        progress.note(slow)


def _cache_type(session: ort.InferenceSession) -> CacheType:
    """Type of the cache, which the first past input has."""
    types = (node.type for node in session.get_inputs() if node.name.startswith(PAST_PREFIX))
    return "int8" if next(types, "") == "tensor(int8)" else "float32"


def _check_signature(path: Path, session: ort.InferenceSession, spec: KVCacheSpec) -> None:
    buffers = {buffer.past: buffer for buffer in spec.buffers()}
    inputs = {INPUT_IDS, ATTENTION_MASK, NUM_LOGITS_TO_KEEP, *buffers}
    added = {QUERY_SEQLENS, ROW_STARTS}  # by this program, where it found their place
    outputs = {LOGITS, *(buffer.present for buffer in buffers.values())}
    # num_logits_to_keep has a default, so onnxruntime lists it among the overridable initializers.
    found_inputs = {node.name for node in (*session.get_inputs(), *session.get_overridable_initializers())}
    found_outputs = {node.name for node in session.get_outputs()}
    different = ((found_inputs - added) ^ inputs) | (found_outputs ^ outputs)
    if different:
        names = ", ".join(sorted(different)[:4])
        raise InputError(
            f"{path}: inputs or outputs differ from a {len(spec.layers)}-layer decoder's ({names}); export again"
        )
    for node in session.get_inputs():
        buffer = buffers.get(node.name)
        if buffer is not None and not buffer.fits(node.shape):
            raise InputError(
                f"{path}: {node.name} is {node.shape}, config.json says {buffer.allocated_shape(1, 1)}; export again"
            )
