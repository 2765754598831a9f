"""Options of measurements, and gates for their results."""

from __future__ import annotations

import click

from q3edge.cli.options.common import (
    FILE,
    CommaSeparated,
    kernels_option,
    number,
    number_option,
    threads_option,
    together,
)
from q3edge.defaults import ANSWER_TOKENS, MAX_KL, MAX_TOKENS, MIN_RECOVERY, THINKING_BUDGETS

_THINKING_BUDGETS = ",".join("none" if budget is None else str(budget) for budget in THINKING_BUDGETS)
max_tokens_option = number_option("--max-tokens", "Largest number of tokens to measure on.", MAX_TOKENS)
validation_options = together(
    click.option(
        "--text",
        "texts",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="UTF-8 text to measure on (default: built in).",
    ),
    max_tokens_option,
    number_option("--max-kl", "Exit with 5 if the mean KL on the text is above this.", metavar="NATS"),
)


def _no(_ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    return not value


speed_option = click.option(
    "--no-speed", "speed", is_flag=True, callback=_no, help="Do not measure tokens per second and memory."
)
measuring_options = together(
    click.option(
        "--suite",
        "suites",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="Questions or text: jsonl, tsv, csv, txt, or a toml that describes such files (default: built in).",
    ),
    click.option(
        "--areas",
        type=CommaSeparated(str, "knowledge,math"),
        metavar="A,B",
        help="Only items of these areas: knowledge,math,code,...",
    ),
    number_option("--limit", "Of each suite at most N questions and N windows of text."),
    click.option(
        "--no-cache",
        "cache",
        is_flag=True,
        callback=_no,
        help="Measure again what was measured before, and keep nothing.",
    ),
    click.option(
        "--generate",
        type=number("generate"),
        is_flag=False,
        flag_value=ANSWER_TOKENS,
        metavar="[N]",
        help=f"Let both models also generate an answer to every question, of up to N tokens ({ANSWER_TOKENS}), "
        "and score these.",
    ),
    click.option(
        "--allow-code",
        is_flag=True,
        help="With --generate: run the programs that the models write, in a sandbox, and score them.",
    ),
    threads_option,
    kernels_option,
)


def _budget(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


thinking_budget_option = click.option(
    "--thinking-budget",
    "thinking_budgets",
    type=CommaSeparated(_budget, "0,128,512,none"),
    is_flag=False,
    flag_value=THINKING_BUDGETS,
    metavar="[N,N]",
    help="Let each ONNX model also answer every question with each of these thinking budgets in tokens, 0 for no "
    f"thinking and none for no limit ({_THINKING_BUDGETS}), and time the answers. Implies --generate, with "
    f"{ANSWER_TOKENS} tokens more than the largest budget.",
)
gate_options = together(
    number_option(
        "--min-recovery",
        "Recovery of a variant to recommend: the lower end of its 95 % interval.",
        MIN_RECOVERY,
        metavar="PERCENT",
    ),
    number_option(
        "--max-kl",
        "Largest mean KL of a variant to recommend: on the suites; without --reference, on the build's text.",
        MAX_KL,
        metavar="NATS",
    ),
)
