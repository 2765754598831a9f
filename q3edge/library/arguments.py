"""Type and range of each argument of the public functions, shared by functions and command-line flags."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from q3edge.errors import ResourceError, UsageError
from q3edge.formats import CACHE_TYPES, EXPERT_OPERATORS, OTHER_FORMATS, PROGRAMS
from q3edge.machine.extras import EXTRAS, install_line
from q3edge.progress import Listener, note, report_to
from q3edge.storage.kept_folder import KINDS
from q3edge.storage.locks import output_lock

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
METHODS = ("keep", "gptq", "rtn")
# Packages whose absence is told with the extra that installs them; the last two come with others.
_EXTRA_OF = {package: extra for extra in ("quantize", "serve-only", "distributed") for package in EXTRAS[extra]}
_EXTRA_OF |= {"pydantic_core": "serve-only", "cloudpickle": "distributed"}


# Kinds of arguments. No dataclasses: each would add half a millisecond to every start of the command.
class Instance:
    """An object of one of these types; `expected` in words."""

    def __init__(self, expected: str, types: tuple[type, ...]) -> None:
        self.expected, self.types = expected, types

    def check(self, name: str, value: object) -> None:
        """Raise TypeError unless `value` is of one of the types."""
        if not isinstance(value, self.types):
            raise wrong_type(name, value, self.expected)


class Number:
    """A finite number from `low` to `high`, both included (None: no bound).

    whole: an int. above: `low` itself is not allowed.
    """

    def __init__(
        self, low: float | None = None, high: float | None = None, *, whole: bool = True, above: bool = False
    ) -> None:
        self.low, self.high, self.whole, self.above = low, high, whole, above

    @property
    def expected(self) -> str:
        """The range in words."""
        if self.low is None:
            return "a number"
        if self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.above else f"at least {self.low:g}"

    def check(self, name: str, value: object) -> None:
        """Raise TypeError unless `value` is such a number, UsageError if it is out of range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            raise wrong_type(name, value, "a whole number (int)" if self.whole else "a number (int or float)")
        low = self.low is None or (value > self.low if self.above else value >= self.low)
        if not low or (self.high is not None and value > self.high) or value != value:
            raise UsageError(f"{name} = {value!r}: expected {self.expected}")
        if value in (math.inf, -math.inf):
            raise UsageError(f"{name} = {value!r}: expected {self.expected}, and finite")


class OneOf:
    """One of the given names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def check(self, name: str, value: object) -> None:
        """Raise TypeError unless `value` is a str, UsageError if it is none of the names."""
        if not isinstance(value, str):
            raise wrong_type(name, value, f"one of {', '.join(map(repr, self.names))}")
        if value not in self.names:
            raise UsageError(f"{name} = {value!r}: expected one of {', '.join(self.names)}")


class Several:
    """A value of one kind, or a list or tuple of such values."""

    def __init__(self, kind: Instance | Number | OrNone) -> None:
        self.kind = kind

    def check(self, name: str, value: object) -> None:
        """Raise the error of the first element that is not of the kind."""
        if not isinstance(value, list | tuple):
            self.kind.check(name, value)
            return
        for number, element in enumerate(value):
            self.kind.check(f"{name}[{number}]", element)


class OrNone:
    """A number, or None where that means something of its own."""

    def __init__(self, kind: Number) -> None:
        self.kind = kind

    def check(self, name: str, value: object) -> None:
        """Raise the error of the number unless `value` is None."""
        if value is not None:
            self.kind.check(name, value)


class KernelChoice:
    """Whose kernels compute a model's products."""

    def check(self, name: str, value: object) -> None:
        """Raise TypeError unless `value` is a str, UsageError if it is no choice, or cannot be had here."""
        if not isinstance(value, str):
            raise wrong_type(name, value, "a str such as 'auto'")
        from q3edge.kernels.choice import choose

        choose(value)


class Callback:
    """A function to be called."""

    def check(self, name: str, value: object) -> None:
        """Raise TypeError unless `value` can be called."""
        if not callable(value):
            raise wrong_type(name, value, "a function")


class RecipeLike:
    """A recipe, the name of a format, or the path of a recipe file."""

    def check(self, name: str, value: object) -> None:
        """Raise TypeError unless `value` is a Recipe, a str or a path."""
        from q3edge.quantization.recipe import Recipe

        if not isinstance(value, str | PathLike | Recipe):
            raise wrong_type(name, value, "a Recipe, the name of a format, or the path of a TOML file")


Kind = Instance | Number | OneOf | Several | OrNone | KernelChoice | Callback | RecipeLike
PATH = Instance("a str or Path", (str, PathLike))
FLAG = Instance("True or False", (bool,))
TEXT = Instance("a str", (str,))
AT_LEAST_ONE = Number(1)
SIZE = Instance("a str such as '350MB', or bytes as an int", (str, int))
_OUTPUTS = ("output", "page", "json_file", "markdown")  # arguments that name what is written
ARGUMENTS: Mapping[str, Kind] = {
    # models and folders
    "model": PATH, "source": PATH, "folder": PATH, "folders": Several(PATH), "reference": PATH, "path_or_id": PATH,
    "a": PATH, "b": PATH, "output": PATH, "overwrite": FLAG, "as_float": FLAG, "last_logits": FLAG,
    "to": OneOf(OTHER_FORMATS), "experts": OneOf(EXPERT_OPERATORS), "experts_per_token": AT_LEAST_ONE,
    "repository": TEXT, "base_model": TEXT, "license_name": TEXT, "name": TEXT, "ram": SIZE, "disk": SIZE,
    "min_tokens_per_second": Number(0, whole=False), "private": FLAG,
    # formats
    "recipe": RecipeLike(), "group_size": Number(), "symmetric": FLAG, "method": OneOf(METHODS),
    "kv_cache": OneOf(CACHE_TYPES), "for_program": OneOf(tuple(PROGRAMS)), "formats": Several(TEXT),
    # calibration
    "calibration": Several(PATH), "samples": Number(2), "seq_len": Number(16), "seed": Number(), "reconstruct": FLAG,
    "tune": FLAG, "restart": FLAG, "target_size": SIZE,
    "target_bpw": Number(0, whole=False, above=True),
    # measuring
    "texts": Several(PATH), "max_tokens": Number(32), "max_kl": Number(0, whole=False),
    "min_recovery": Number(0, whole=False), "scorecard": PATH, "suites": Several(PATH), "areas": Several(TEXT),
    "limit": AT_LEAST_ONE, "generate": AT_LEAST_ONE, "allow_code": FLAG, "cache": FLAG, "speed": FLAG,
    "thinking_budgets": Several(OrNone(Number(0))),
    "prompt": AT_LEAST_ONE, "new": AT_LEAST_ONE, "depths": Several(Number(0)), "repeats": AT_LEAST_ONE,
    # reports
    "page": PATH, "json_file": PATH, "markdown": PATH,
    # serving
    "host": TEXT, "port": Number(0, 65535), "api_key_file": PATH, "names": Several(TEXT), "allow_hosts": Several(TEXT),
    "allow_origins": Several(TEXT), "max_queue": Number(0), "max_new_tokens": AT_LEAST_ONE, "context": Number(2),
    "memory_limit": SIZE, "log_prompts": FLAG, "prefix_dir": PATH, "on_ready": Callback(),
    # running
    "scheduler": TEXT, "moe": FLAG, "quick": FLAG, "on_row": Callback(), "threads": Number(1, 1024),
    "jobs": Number(1, 64), "speculate": FLAG, "draft": PATH, "max_batch": AT_LEAST_ONE, "kv_memory": SIZE,
    "deterministic": FLAG, "chat_template": PATH, "dimensions": AT_LEAST_ONE, "offload": FLAG,
    "kernels": KernelChoice(), "kind": OneOf(tuple(KINDS)),
}  # fmt: skip


def wrong_type(name: str, value: object, expected: str) -> TypeError:
    """Make the error for a value of the wrong type."""
    return TypeError(f"{name}: expected {expected}, not {type(value).__name__}")


def public(**kinds: Kind) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a public function: check its arguments, then run it, with progress shown if `progress` asks for it.

    With a `scheduler`, independent work of the function runs on that cluster's workers.

    kinds: of arguments that differ from ARGUMENTS. An argument whose default is None may be None. The decorated
    function raises ResourceError if a package of an optional extra is not installed.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)
        known = {name: kinds.get(name) or ARGUMENTS[name] for name in signature.parameters if name != "progress"}

        @wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            given = _bound(function.__name__, signature, args, kwargs)
            shown = _shown(given.pop("progress", False))
            for name, value in given.items():
                if value is not None or signature.parameters[name].default is not None:
                    known[name].check(name, value)
            let_waiting_threads_sleep()
            try:
                with shown, _outputs_held(given), _place_of_work(given):
                    return function(*args, **kwargs)
            except ModuleNotFoundError as error:
                if (package := (error.name or "").partition(".")[0]) in _EXTRA_OF:
                    raise ResourceError(
                        f"this needs the package {package}: {install_line(_EXTRA_OF[package])}"
                    ) from error
                raise

        return checked

    return decorate


def let_waiting_threads_sleep() -> None:
    """Make torch's OpenMP threads sleep while they wait for others, unless the user chose otherwise.

    Threads that loop take the core from whom they wait for where another process runs. Counts if torch is not imported
    yet.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def _outputs_held(given: Mapping[str, Any]) -> Iterator[None]:
    """Hold all that the call will write, from before it reads anything: a second one is told at once."""
    with ExitStack() as stack:
        for name in _OUTPUTS:
            if given.get(name) is not None:
                # Lenient: the writer says what is wrong with a place.
                stack.enter_context(output_lock(Path(given[name]), lenient=True))
        yield


def _place_of_work(given: Mapping[str, Any]) -> AbstractContextManager[None]:
    if given.get("scheduler") is None:
        return nullcontext()
    from q3edge.cluster.workers import working_with

    if trained := [f"--{name}" for name in ("reconstruct", "tune") if given.get(name)]:
        note(f"note: {' and '.join(trained)}: training goes step by step, and runs here, not on the workers")
    return working_with(given["scheduler"])


def _bound(
    function: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name; TypeError that names the function and, for an unknown name, all that it has."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        names = f"; it has {', '.join(signature.parameters)}" * bool(kwargs.keys() - signature.parameters.keys())
        raise TypeError(f"{function}: {error}{names}") from None


def _shown(progress: object) -> AbstractContextManager[None]:
    """Context in which progress is shown as asked for; False keeps the present listener."""
    if progress is False:
        return nullcontext()
    if progress is True:
        from q3edge.terminal import TerminalProgress

        return report_to(TerminalProgress())
    if not (hasattr(progress, "task") and hasattr(progress, "note")):
        raise wrong_type("progress", progress, "True, False or a listener with task() and note()")
    listener: Listener = progress
    return report_to(listener)
