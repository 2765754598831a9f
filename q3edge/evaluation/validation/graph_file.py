"""`read_graph`: an ONNX model's graph without the data of its weights."""

from __future__ import annotations

from pathlib import Path

import onnx

from q3edge.errors import unreadable


def read_graph(path: Path) -> onnx.GraphProto:
    """Read the graph of the file `path`, not its external data. InputError: not an ONNX model."""
    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is not a public class
        raise unreadable(f"{path}: not an ONNX model ({error}); export again", error) from None
