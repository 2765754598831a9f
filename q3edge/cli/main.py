"""The `q3edge` command: its subcommands, and the conversion of errors into one line and an exit code.

0 ok, 1 internal error, 2 usage, 3 bad input, 4 resource, 5 validation failed, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from q3edge.cli.bench import bench
from q3edge.cli.build import build
from q3edge.cli.cache import cache
from q3edge.cli.chat import chat
from q3edge.cli.check import check
from q3edge.cli.demo import demo
from q3edge.cli.diff import diff
from q3edge.cli.doctor import doctor
from q3edge.cli.embed import embed
from q3edge.cli.eval import evaluate
from q3edge.cli.export import export
from q3edge.cli.inspect import inspect
from q3edge.cli.list import list_models
from q3edge.cli.pull import pull
from q3edge.cli.push import push
from q3edge.cli.quantize import quantize
from q3edge.cli.report import report
from q3edge.cli.rerank import rerank
from q3edge.cli.run import run
from q3edge.cli.serve import serve
from q3edge.cli.standard_streams import require_streams, use_utf8
from q3edge.cli.start import INTERRUPTED, raise_at_signals
from q3edge.cli.sweep import sweep
from q3edge.cli.validate import validate
from q3edge.cli.zoo import zoo
from q3edge.errors import Q3EdgeError, describe_error
from q3edge.machine.memory import require_address_space
from q3edge.progress import report_to
from q3edge.terminal import TerminalProgress, say
from q3edge.version import VERSION

_LIBRARY_BYTES = 128 << 20  # of addresses that the libraries of the smallest command take: some abort without them
_EPILOG = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 bad input, 4 resource (disk, memory, missing package), "
    "5 validation failed, 130 interrupted, 143 terminated. Shell completion: see docs/usage.md."
)

_COMMANDS = {
    "Make a model": (demo, zoo, inspect, build, quantize, export, sweep),
    "Use it": (run, chat, serve, embed, rerank, list_models),
    "Judge it": (validate, evaluate, check, diff, bench, report),
    "Share it": (push, pull),
    "This machine": (doctor, cache),
}


class _ReaderGoneError(Exception):
    """The reader closed stdout (`| head`): exit cleanly."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Run a command; click would turn a closed stdout into a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGoneError from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for, each with its whole line."""
        longest = max(map(len, self.commands))
        for purpose, commands in _COMMANDS.items():
            with formatter.section(purpose):
                formatter.write_dl([(str(c.name).ljust(longest), c.short_help or "") for c in commands])


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}, epilog=_EPILOG
)
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error (anywhere on the line)."
)
@click.version_option(VERSION, prog_name="q3edge")
def cli() -> None:
    """Turn any Qwen3 checkpoint into a small, fast, verified ONNX model for the CPU.

    New here? `q3edge demo` shows the whole flow on a small embedded model, offline, in under two minutes.
    """


for _commands in _COMMANDS.values():
    for _command in _commands:
        cli.add_command(_command)


def main(arguments: Sequence[str]) -> int:
    """Run one command; every outcome is an exit code, and no traceback is printed without --debug."""
    arguments = list(arguments)
    debug = "--debug" in arguments[: arguments.index("--") if "--" in arguments else None]
    if debug:
        arguments.remove("--debug")
    try:
        raise_at_signals()
        require_address_space(_LIBRARY_BYTES, "q3edge")
        require_streams()
        use_utf8()
        with report_to(TerminalProgress()):
            result = cli.main(args=arguments, prog_name="q3edge", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except _ReaderGoneError:
        _drop_output()
        return 0
    except (KeyboardInterrupt, click.Abort) as error:
        notes = getattr(error.__cause__ or error, "__notes__", ())  # click makes an Abort of a KeyboardInterrupt
        say("; ".join(["interrupted", *notes]))
        return INTERRUPTED
    except SystemExit as error:  # SIGTERM
        if notes := getattr(error, "__notes__", ()):
            say("; ".join(["terminated", *notes]))
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _describe(error)
        say(f"q3edge: {message}")
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return code


def _describe(error: Exception) -> tuple[str, int]:
    message, code = describe_error(error)
    return message + " (add --debug for the traceback)" * (code == Q3EdgeError.exit_code), code


def _drop_output() -> None:
    # Stdout points elsewhere, so that the interpreter's last flush stays silent.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
