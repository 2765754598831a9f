"""q3edge: any Qwen3 checkpoint in, a small, fast, verified ONNX model for the CPU out.

    import q3edge

    q3edge.build("Qwen/Qwen3-0.6B", "model")
    with q3edge.load("model") as model:
        print(model.chat("Why is the sky blue?").answer)

Follow the data: checkpoint -> calibration -> exporters -> evaluation -> runtime -> report. A name is imported when it
is first used, so that `import q3edge` takes no time and needs neither torch nor onnxruntime.
"""

import os
from typing import TYPE_CHECKING

from q3edge.version import VERSION as __version__

# onnxruntime, from 1.32 on, reports its use to Microsoft unless it is told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Config",
    "EmbeddingModel",
    "GenerationSettings",
    "InputError",
    "Model",
    "Q3EdgeError",
    "Recipe",
    "Reranker",
    "ResourceError",
    "Scheme",
    "UsageError",
    "ValidationError",
    "__version__",
    "bench",
    "build",
    "check",
    "clear_cache",
    "demo",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "list_cache",
    "list_models",
    "load",
    "load_embedding",
    "load_reranker",
    "make_report",
    "pull",
    "push",
    "quantize",
    "serve",
    "sweep",
    "validate",
    "zoo",
]

if TYPE_CHECKING:
    from q3edge.architecture.config import Qwen3Config as Config
    from q3edge.errors import InputError, Q3EdgeError, ResourceError, UsageError, ValidationError
    from q3edge.library.installation import clear_cache, doctor, list_cache
    from q3edge.library.judging import bench, check, diff, evaluate, inspect, validate, zoo
    from q3edge.library.loading import load, load_embedding, load_reranker
    from q3edge.library.making import build, demo, export, quantize
    from q3edge.library.reporting import make_report, sweep
    from q3edge.library.serving import serve
    from q3edge.library.sharing import list_models, pull, push
    from q3edge.quantization.recipe import Recipe
    from q3edge.quantization.scheme import Scheme
    from q3edge.runtime.embedding_model import EmbeddingModel
    from q3edge.runtime.generation.settings import GenerationSettings
    from q3edge.runtime.model import Model
    from q3edge.runtime.reranker import Reranker
else:
    _NAMES_OF = {  # the imports above, made when a name is first used
        "q3edge.architecture.config": "Qwen3Config",
        "q3edge.errors": "InputError Q3EdgeError ResourceError UsageError ValidationError",
        "q3edge.library.installation": "clear_cache doctor list_cache",
        "q3edge.library.judging": "bench check diff evaluate inspect validate zoo",
        "q3edge.library.loading": "load load_embedding load_reranker",
        "q3edge.library.making": "build demo export quantize",
        "q3edge.library.reporting": "make_report sweep",
        "q3edge.library.serving": "serve",
        "q3edge.library.sharing": "list_models pull push",
        "q3edge.quantization.recipe": "Recipe",
        "q3edge.quantization.scheme": "Scheme",
        "q3edge.runtime.embedding_model": "EmbeddingModel",
        "q3edge.runtime.generation.settings": "GenerationSettings",
        "q3edge.runtime.model": "Model",
        "q3edge.runtime.reranker": "Reranker",
    }
    _MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}
    _RENAMED = {"Config": "Qwen3Config"}

    def __getattr__(name):
        """Import a public name when it is first used (PEP 562)."""
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'q3edge' has no attribute {name!r}")
        original = _RENAMED.get(name, name)
        globals()[name] = found = getattr(import_module(_MODULE_OF[original]), original)
        return found

    def __dir__():
        return sorted(__all__)
