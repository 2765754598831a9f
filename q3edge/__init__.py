"""q3edge: any Qwen3 checkpoint in, a small, fast, verified ONNX model for the CPU out.

Follow the data: checkpoint -> calibration -> exporters -> evaluation -> runtime -> report. Nothing is imported here.
"""

from q3edge.version import VERSION as __version__

__all__ = ["__version__"]
