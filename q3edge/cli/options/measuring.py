"""The options of `eval`, `report`, `check` and `sweep` that say what is measured, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from q3edge.cli.console import FILE, threads_option
from q3edge.defaults import ANSWER_TOKENS, MAX_KL, MIN_RECOVERY

if TYPE_CHECKING:
    from q3edge.pipeline.measure.measuring import Asking, Measuring

Command = TypeVar("Command", bound=Callable[..., Any])

no_speed_option = click.option("--no-speed", is_flag=True, help="Do not measure tokens per second and memory.")


generate_option = click.option(
    "--generate",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=ANSWER_TOKENS,
    metavar="[N]",
    help="Let both models also answer every question in their own words, in up to N tokens "
    f"({ANSWER_TOKENS}), and score that.",
)
allow_code_option = click.option(
    "--allow-code",
    is_flag=True,
    help="With --generate: run the programs that the models write, in a sandbox, and judge them.",
)


def measuring_options(command: Command) -> Command:
    """--suite, --areas, --limit, --generate and so on, as `build_measuring` takes them."""
    for option in (
        threads_option,
        allow_code_option,
        generate_option,
        click.option("--no-cache", is_flag=True, help="Measure again what was measured before, and keep nothing."),
        click.option(
            "--limit",
            type=click.IntRange(1),
            metavar="N",
            help="Of each suite at most N questions and N windows of text.",
        ),
        click.option("--areas", metavar="A,B", help="Only items of these areas: knowledge,math,code,..."),
        click.option(
            "--suite",
            "suite_files",
            type=FILE,
            multiple=True,
            metavar="FILE",
            help="Questions or text: jsonl, tsv, csv, txt, or a toml that describes such files (default: built in).",
        ),
    ):
        command = option(command)
    return command


def gate_options(command: Command) -> Command:
    """--min-recovery and --max-kl with the defaults of the recommendation."""
    for option in (
        click.option(
            "--max-kl",
            type=click.FloatRange(0),
            default=MAX_KL,
            show_default=True,
            metavar="NATS",
            help="Largest mean KL of a variant to recommend: on the suites; without --reference, on the build's text.",
        ),
        click.option(
            "--min-recovery",
            type=click.FloatRange(0),
            default=MIN_RECOVERY,
            show_default=True,
            metavar="PERCENT",
            help="Recovery of a variant to recommend: the lower end of its 95 % interval.",
        ),
    ):
        command = option(command)
    return command


def build_asking(generate: int | None, allow_code: bool) -> Asking | None:
    """What --generate and --allow-code ask for; UsageError: the second without the first."""
    from q3edge.errors import UsageError
    from q3edge.pipeline.measure.measuring import Asking

    if generate is None:
        if allow_code:
            raise UsageError("--allow-code runs what --generate writes: add --generate")
        return None
    return Asking(max_new_tokens=generate, run_code=allow_code)


def build_measuring(
    reference: str | None,
    suite_files: tuple[Path, ...],
    areas: str | None,
    limit: int | None,
    generate: int | None,
    allow_code: bool,
    no_cache: bool,
    threads: int | None,
    no_speed: bool = True,
) -> Measuring:
    """What the flags of `measuring_options` ask for. InputError: a suite is broken."""
    from q3edge.evaluation.suites.suite_files import read_suites
    from q3edge.pipeline.measure.measuring import Measuring

    return Measuring(
        reference=reference,
        suites=read_suites(suite_files) if suite_files else None,
        areas=None if areas is None else tuple(area.strip() for area in areas.split(",")),
        limit=limit,
        asking=build_asking(generate, allow_code),
        speed=not no_speed,
        threads=threads,
        cache=not no_cache,
    )
