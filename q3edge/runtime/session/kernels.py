"""Which kernels compute a session's products: onnxruntime's or ours, and ours put into a graph.

The files of an artifact have onnxruntime's operators alone; ours take their places in memory, as a model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from q3edge import progress
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import ResourceError
from q3edge.kernels.choice import ONNXRUNTIME, broken, choose
from q3edge.kernels.library import DOMAIN, Library
from q3edge.machine.memory import free_memory
from q3edge.plain_line import counted
from q3edge.runtime.session.attention_graph import ROW_STARTS, attention_nodes
from q3edge.runtime.session.expert_graph import expert_operators
from q3edge.runtime.session.fused_graph import fuse_operators
from q3edge.runtime.session.graph_input import INT32, graph_input
from q3edge.runtime.session.graph_nodes import Graph, opset_bytes
from q3edge.runtime.session.kept_graph import ChangedGraph, graph_path, read_graph, write_graph
from q3edge.runtime.session.kept_room import make_room, remove_damaged
from q3edge.runtime.session.lent_weights import LentWeights, Options
from q3edge.runtime.session.loader import CheckedGraph
from q3edge.runtime.session.offload import note_on_disk
from q3edge.runtime.session.packed_products import (
    PackedProducts,
    can_be_packed,
    pack_products,
    read_packed_products,
)
from q3edge.runtime.session.product_graph import BlockMatrix, ProductOperator, packed_nodes, product_operators
from q3edge.runtime.session.routed_graph import RoutedExperts, expert_nodes, routed_experts
from q3edge.storage.digests import json_digest
from q3edge.storage.kept_folder import ADVICE, keep_origin, kept_folder
from q3edge.storage.locks import output_lock

PACKING = "packing the weights of"  # begin of the note
_COPIED = 0.5  # share of free memory up to which packed weights are copied into large pages
_OPSET = 1  # version of our operators
LAYOUT = 3  # version of native/layout.h, and of what says where matrices lie
FOLDER = "kernels"  # of what is packed, in the folder of what is kept


@dataclass(frozen=True, slots=True)
class OurKernels:
    """Library, and the instruction set by which it computes some of a graph's products, and all of its experts or none.

    experts: of each layer.
    """

    library: Library
    instruction_set: str
    graph: Graph
    products: tuple[ProductOperator, ...]
    experts: tuple[RoutedExperts, ...]

    @property
    def matrices(self) -> tuple[BlockMatrix, ...]:
        """Matrices that are packed, those of experts behind the others."""
        experts = (matrix for each in self.experts for matrix in each.matrices)
        return (*(each.matrix for each in self.products), *experts)


def chosen_kernels(wanted: str | None, model: bytes, lent: LentWeights) -> OurKernels | None:
    """Choose the kernels for a serialized model as `choose` does; None: onnxruntime's, also where ours fit nothing.

    A matrix can only be packed of weights that are lent.
    """
    chosen = choose(wanted)
    if chosen is None:
        return None
    graph = Graph(model)
    library = chosen.library
    products = tuple(each for each in product_operators(graph) if can_be_packed(library, each.matrix, lent))
    experts = routed_experts(graph, lent)
    if not all(can_be_packed(library, matrix, lent) for each in experts for matrix in each.matrices):
        experts = ()
    if not products and not experts:
        return None
    return OurKernels(library, chosen.instruction_set, graph, products, experts)


@dataclass(frozen=True, slots=True)
class ReadyGraph:
    """Graph with our operators, and the packed matrices that they read."""

    packed: PackedProducts
    graph: ChangedGraph


def ready_graph(checked: CheckedGraph, wanted: str | None, threads: int) -> ReadyGraph | None:
    """Find what `kernel_graph` has kept for a model and these kernels; None: it is to be made."""
    chosen = choose(wanted)
    packed = None if chosen is None else read_packed_products(_place(checked))
    if chosen is None or packed is None:
        return None
    graph = read_graph(graph_path(packed.folder, chosen.instruction_set, threads), chosen.library)
    return None if graph is None else ReadyGraph(packed, graph)


@dataclass(frozen=True, slots=True)
class KernelGraph:
    """Model that a session is made of, with our operators in it or without.

    kernels: whose they are, for people. library: of the operators; None: onnxruntime's alone. load: waits until the
    packed matrices are read, before anything is computed with them; InputError: they are damaged, and now removed;
    ResourceError: damaged, and cannot be removed.
    """

    model: bytes
    kernels: str
    library: Library | None
    load: Callable[[], None]


@contextmanager
def kernel_graph(
    folder: Path,
    checked: CheckedGraph,
    model: Callable[[], bytes],
    lent: LentWeights,
    options: Options,
    wanted: str | None,
    threads: int,
    verify_weights: Callable[[], object],
    ready: ReadyGraph | None = None,
    *,
    offload: bool | None,
    keep: bool = False,
) -> Iterator[KernelGraph]:
    """Put our operators into a model, as `chosen_kernels` says, for a session that is made inside the block.

    model: makes the serialized graph. Packs the model's matrices where they are not yet, once and for all, and reads
    them meanwhile; once more where another process removes them before they are mapped. ready: what `ready_graph` has
    found. offload: experts stay on the disk (None: where they would not fit in memory, which is said). keep: for the
    next start. ResourceError: the disk is full, or cannot be written, and our kernels were asked for.
    """
    chosen = choose(wanted)
    if reason := broken(wanted):
        progress.note(f"note: {folder}: with onnxruntime's kernels: {reason}")
    with ExitStack() as stack:
        try:
            for again in (True, False):
                ready = ready or _made_ready(
                    folder, checked, model(), lent, options, wanted, threads, verify_weights, keep=keep
                )
                if ready is None or chosen is None:
                    break
                try:
                    stack.enter_context(_mapped(folder, chosen.library, ready.packed, offload))
                    break
                except _RemovedError:
                    if not again:
                        raise
                    ready = None
        except ResourceError as error:
            if chosen is None or chosen.required:
                raise
            progress.note(f"note: {folder}: with onnxruntime's kernels, as packed weights cannot be had ({error})")
            ready = chosen = None
        if ready is None and chosen is not None and chosen.required:
            progress.note(f"note: {folder}: with onnxruntime's kernels, as q3edge's can have none of its products")
        if ready is None or chosen is None:
            yield KernelGraph(model(), ONNXRUNTIME, None, lambda: None)
            return
        packed, graph = ready.packed, ready.graph
        loading = stack.enter_context(ThreadPoolExecutor(1)).submit(packed.load, chosen.library, threads)
        experts = f", {counted(graph.experts, 'layer')} of experts" if graph.experts else ""
        label = f"q3edge ({chosen.instruction_set}, {counted(graph.products, 'product')}{experts})"
        yield KernelGraph(graph.model, label, chosen.library, partial(_check_loaded, packed, loading))


class _RemovedError(ResourceError):
    """Packed weights were there, and are gone."""


@contextmanager
def _mapped(folder: Path, library: Library, packed: PackedProducts, offload: bool | None) -> Iterator[None]:
    """Map packed weights, in pages that are theirs alone where memory is plenty.

    Experts that stay on the disk have the file's own pages, which the system may take back. _RemovedError: another
    process removed them meanwhile. ResourceError: there are no addresses left.
    """
    free = free_memory()
    if offload is None and free is not None and packed.read_always < packed.size and packed.size > free:
        note_on_disk(folder, packed.size, free)
    sizes = (packed.read_always, 0) if offload else (packed.size, packed.read_always, 0)
    copied = next(size for size in sizes if size < _COPIED * (free or 0) or size == 0)
    with ExitStack() as stack:
        try:
            stack.enter_context(library.mapped(packed.path, copied=copied))
        except FileNotFoundError:
            raise _RemovedError(f"{packed.path}: was removed meanwhile; the same command makes it again") from None
        except OSError as error:
            raise ResourceError(f"{packed.path}: cannot be mapped ({error.strerror or error})") from None
        yield


def _place(checked: CheckedGraph) -> Path:
    sources = [checked.manifest.files[name].sha256 for name in (MODEL_FILE, DATA_FILE)]
    return kept_folder(FOLDER) / json_digest([*sources, LAYOUT])[:32]


def _made_ready(
    folder: Path,
    checked: CheckedGraph,
    model: bytes,
    lent: LentWeights,
    options: Options,
    wanted: str | None,
    threads: int,
    verify_weights: Callable[[], object],
    *,
    keep: bool,
) -> ReadyGraph | None:
    """Put our operators into a model; None: they fit nothing."""
    ours = chosen_kernels(wanted, model, lent)
    if ours is None:
        return None
    packed = _packed_products(folder, checked, model, lent, options, ours, threads, verify_weights)
    changed = _with_our_operators(ours, packed, threads)
    graph = ChangedGraph(changed, len(ours.products), len(ours.experts), checked.external_data)
    if keep and not expert_operators(changed):  # whether onnxruntime's stay on the disk is decided at every start
        write_graph(graph_path(packed.folder, ours.instruction_set, threads), graph, ours.library)
    return ReadyGraph(packed, graph)


def _packed_products(
    folder: Path,
    checked: CheckedGraph,
    model: bytes,
    lent: LentWeights,
    options: Options,
    ours: OurKernels,
    threads: int,
    verify_weights: Callable[[], object],
) -> PackedProducts:
    """Find the packed matrices of a model, or pack them."""
    place, names = _place(checked), {each.codes for each in ours.matrices}
    if (found := read_packed_products(place, names)) is not None:
        return found
    with output_lock(place, wait=True, advice=ADVICE):  # another process may be packing them
        if (found := read_packed_products(place, names)) is not None:
            return found
        progress.note(f"{PACKING} {folder} for q3edge's kernels, once, into {place}")
        make_room(FOLDER, place)
        packed = pack_products(place, model, ours.matrices, lent, options, ours.library, threads, verify_weights)
        keep_origin(place, folder)
        make_room(FOLDER, place)
        return packed


def _with_our_operators(ours: OurKernels, packed: PackedProducts, threads: int) -> bytes:
    number = ours.library.instruction_sets.index(ours.instruction_set)
    common = {"instruction_set": number, "threads": threads}
    matrices = {
        codes: {"offset": matrix.offset, **matrix.shape.attributes()} for codes, matrix in packed.matrices.items()
    }
    graph = ours.graph
    attention = attention_nodes(graph, common)
    products, experts = packed_nodes(ours.products, matrices, common), expert_nodes(ours.experts, matrices, common)
    graph.exchange((*products, *experts, *attention))
    fuse_operators(graph)
    added = (
        graph_input(ROW_STARTS, INT32, "batch_size") if any(ROW_STARTS in node.inputs for node in attention) else b""
    )
    return graph.serialized() + added + opset_bytes(DOMAIN, _OPSET)


def _check_loaded(packed: PackedProducts, loading: Future[bool]) -> None:
    if not loading.result():
        raise remove_damaged(packed.folder)
