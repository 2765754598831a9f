"""A process for a program: the program itself, or the judge that calls it and says whether it is right.

argv: options as JSON. stdin: the job as JSON. stdout, a file: "ready" once the process is confined, and behind it the
verdict of the judge, or what a program prints that nobody judges. A program that is judged has neither that file nor
any other that the judge or the parent reads a result from.
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any

from q3edge.evaluation.sandbox.calls import NotPlainError, Peer
from q3edge.evaluation.sandbox.confinement import Kernel, Limits, confine

READY = b"ready\n"


def main() -> None:
    """Read the job, give up everything it does not need, and do it."""
    options = json.loads(sys.argv[1])
    job = json.loads(sys.stdin.buffer.read())
    sys.argv[:] = ["program"]
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    peer = Peer(options["connection"])
    confine(Kernel(**options["kernel"]), os.getcwd(), Limits(**options["limits"]), options["parent"])
    os.write(report, READY)
    if job["entry_point"] is None:
        os.dup2(report, 1)
        os.close(report)
        exec(_compiled(job["source"], "program"), _module("program"))
    elif job["test"] is None:
        os.close(report)
        _run(job, peer)
    else:
        os.write(report, " ".join(_judge(job, peer)).encode(errors="replace"))


def _run(job: dict[str, Any], peer: Peer) -> None:
    """Run the program, a module of the name `program`, and let its function be called."""
    namespace = _module("program")
    exec(_compiled(job["source"], "program"), namespace)
    peer.share(namespace[job["entry_point"]])
    peer.serve()


def _judge(job: dict[str, Any], peer: Peer) -> tuple[str, str]:
    """Run the test on the program's function; returns passed, failed, ended (the program) or unfit (the test), and why.

    An error before the program's function was called is the test's own.
    """
    function, namespace, reason = peer.function(0), _module("test"), None
    try:
        exec(_compiled(job["prompt"], "prompt"), namespace)
        namespace[job["entry_point"]] = function
        exec(_compiled(job["test"], "test"), namespace)
        namespace["check"](function)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(peer.fault, NotPlainError):
        return "unfit", str(peer.fault)
    if peer.fault is not None:
        return "ended", ""
    if reason is not None:
        return "failed" if peer.calls else "unfit", reason
    return "passed", ""


def _compiled(source: str, name: str) -> types.CodeType:
    """Code of a module that has none of this file's `from __future__` imports."""
    return compile(source, name, "exec", dont_inherit=True)


def _module(name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return vars(module)
