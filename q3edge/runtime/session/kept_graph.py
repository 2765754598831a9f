"""Graphs with our operators in them, in files beside the packed matrices that they read.

Making one, from reading the model's graph to writing the changed one, takes longer than all else of a start.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from q3edge.errors import ResourceError
from q3edge.kernels.library import Library
from q3edge.runtime.session.onnx_references import ExternalTensor
from q3edge.storage.array_file import DamagedFileError, read_arrays, write_arrays
from q3edge.storage.code_digest import code_digest
from q3edge.storage.kept_folder import ADVICE

_CODE = ("runtime.session", "kernels", "architecture")  # what makes a graph
_GRAPH = "graph"


@dataclass(frozen=True, slots=True)
class ChangedGraph:
    """Serialized model with our operators, how many products and experts' layers are theirs; its external data."""

    model: bytes
    products: int
    experts: int
    external_data: tuple[ExternalTensor, ...]


def graph_path(folder: Path, instruction_set: str, threads: int) -> Path:
    """File of the graph for so many threads."""
    return folder / f"graph-{instruction_set}-{threads}.bin"


def read_graph(path: Path, library: Library) -> ChangedGraph | None:
    """Read a graph that `write_graph` wrote there; None if it is of other code, or nothing whole.

    Also None where the library is another, or this CPU another, whose instruction sets have other numbers.
    """
    with suppress(OSError, DamagedFileError):
        arrays, note = read_arrays(path)
        if note["made by"] == _makers(path, library):
            tensors = (
                ExternalTensor(name, kind, tuple(shape), *place) for name, kind, shape, *place in note["tensors"]
            )
            return ChangedGraph(arrays[_GRAPH].tobytes(), note["products"], note["experts"], tuple(tensors))
    return None


def write_graph(path: Path, graph: ChangedGraph, library: Library) -> None:
    """Keep a graph, in the place of one that other code or another library made; where it cannot be, nothing is."""
    note = {
        "made by": _makers(path, library),
        "products": graph.products,
        "experts": graph.experts,
        "tensors": [astuple(tensor) for tensor in graph.external_data],
    }
    with suppress(ResourceError):
        write_arrays(path, {_GRAPH: np.frombuffer(graph.model, np.uint8)}, note, ADVICE)


def _makers(path: Path, library: Library) -> list[str]:
    """What a graph depends on beside its name: the model, by the folder of its matrices; code, library, and CPU."""
    return [path.parent.name, code_digest(*_CODE), library.digest(), *library.instruction_sets]
