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
from q3edge.errors import InputError, ResourceError
from q3edge.kernels.choice import ONNXRUNTIME, choose
from q3edge.kernels.library import DOMAIN, Library
from q3edge.machine.memory import free_memory
from q3edge.runtime.session.attention_graph import ROW_STARTS, attention_nodes
from q3edge.runtime.session.expert_graph import expert_operators
from q3edge.runtime.session.fused_graph import fuse_operators
from q3edge.runtime.session.graph_input import INT32, graph_input
from q3edge.runtime.session.graph_nodes import Graph, opset_bytes
from q3edge.runtime.session.kept_graph import ChangedGraph, graph_path, read_graph, write_graph
from q3edge.runtime.session.kept_room import make_room
from q3edge.runtime.session.lent_weights import LentWeights, Options
from q3edge.runtime.session.loader import CheckedGraph
from q3edge.runtime.session.packed_products import (
    PackedProducts,
    can_be_packed,
    pack_products,
    read_packed_products,
)
from q3edge.runtime.session.product_graph import ProductOperator, packed_nodes, product_operators
from q3edge.storage.digests import json_digest
from q3edge.storage.kept_folder import ADVICE, kept_folder
from q3edge.storage.locks import output_lock

PACKING = "packing the weights of"  # begin of the note
_COPIED = 0.5  # share of free memory up to which packed weights are copied into large pages
_OPSET = 1  # version of our operators
LAYOUT = 2  # version of native/layout.h
FOLDER = "kernels"  # of what is packed, in the folder of what is kept


@dataclass(frozen=True, slots=True)
class OurKernels:
    """Library, and the instruction set by which it computes some of a graph's products."""

    library: Library
    instruction_set: str
    graph: Graph
    products: tuple[ProductOperator, ...]


def chosen_kernels(wanted: str | None, model: bytes, lent: LentWeights) -> OurKernels | None:
    """Choose the kernels for a serialized model as `choose` does; None: onnxruntime's, also where ours fit nothing.

    A matrix can only be packed of weights that are lent.
    """
    chosen = choose(wanted)
    if chosen is None:
        return None
    graph = Graph(model)
    products = tuple(each for each in product_operators(graph) if can_be_packed(chosen.library, each, lent))
    if not products:
        return None
    return OurKernels(chosen.library, chosen.instruction_set, graph, products)


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
    packed matrices are read, before anything is computed with them; InputError: they are damaged, and now removed.
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
    keep: bool = False,
) -> Iterator[KernelGraph]:
    """Put our operators into a model, as `chosen_kernels` says, for a session that is made inside the block.

    model: makes the serialized graph. Packs the model's matrices where they are not yet, once and for all, and reads
    them meanwhile. ready: what `ready_graph` has found. keep: for the next start. ResourceError: the disk is full, or
    cannot be written, and our kernels were asked for.
    """
    chosen = choose(wanted)
    with ExitStack() as stack:
        try:
            if ready is None:
                ready = _made_ready(folder, checked, model(), lent, options, wanted, threads, verify_weights, keep=keep)
            if ready is not None and chosen is not None:
                stack.enter_context(_mapped(chosen.library, ready.packed))
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
        label = f"q3edge ({chosen.instruction_set}, {graph.products} products)"
        yield KernelGraph(graph.model, label, chosen.library, partial(_check_loaded, packed, loading))


@contextmanager
def _mapped(library: Library, packed: PackedProducts) -> Iterator[None]:
    """Map packed weights, in pages that are theirs alone where memory is plenty.

    ResourceError: another process removed them meanwhile, or there are no addresses left.
    """
    free = free_memory()
    size = sum(library.packed_bytes(matrix.shape) for matrix in packed.matrices.values())
    copied = free is not None and size < _COPIED * free
    with ExitStack() as stack:
        try:
            stack.enter_context(library.mapped(packed.path, copied=copied))
        except OSError as error:
            raise ResourceError(
                f"{error}, perhaps as it was removed meanwhile; the same command makes it again"
            ) from None
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
    graph = ChangedGraph(_with_our_operators(ours, packed, threads), len(ours.products), checked.external_data)
    if keep and not expert_operators(model):  # whether experts stay on the disk is decided at every start
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
    place, names = _place(checked), {each.codes for each in ours.products}
    if (found := read_packed_products(place, names)) is not None:
        return found
    with output_lock(place, wait=True, advice=ADVICE):  # another process may be packing them
        if (found := read_packed_products(place, names)) is not None:
            return found
        progress.note(f"{PACKING} {folder} for q3edge's kernels, once, into {place}")
        make_room(FOLDER, place)
        packed = pack_products(place, model, ours.products, lent, options, ours.library, threads, verify_weights)
        make_room(FOLDER, place)
        return packed


def _with_our_operators(ours: OurKernels, packed: PackedProducts, threads: int) -> bytes:
    number = ours.library.instruction_sets.index(ours.instruction_set)
    common = {"instruction_set": number, "threads": threads}
    products = {
        codes: {"offset": matrix.offset, **matrix.shape.attributes(), **common}
        for codes, matrix in packed.matrices.items()
    }
    graph = ours.graph
    attention = attention_nodes(graph, common)
    graph.exchange((*packed_nodes(ours.products, products), *attention))
    fuse_operators(graph)
    added = (
        graph_input(ROW_STARTS, INT32, "batch_size") if any(ROW_STARTS in node.inputs for node in attention) else b""
    )
    return graph.serialized() + added + opset_bytes(DOMAIN, _OPSET)


def _check_loaded(packed: PackedProducts, loading: Future[bool]) -> None:
    if not loading.result():
        packed.remove()
        raise InputError(f"{packed.folder}: was damaged and is removed; the same command makes it again")
