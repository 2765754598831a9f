"""Defaults shared by the commands and their functions, in a module of their own: `--help` needs no numpy."""

from __future__ import annotations

FORMAT = "int4-mixed"
SAMPLES, SEQ_LEN = 128, 512  # rows of calibration text, and tokens in each
MIN_RECOVERY, MAX_KL = 97.0, 0.05  # of a variant to recommend: percent and nats
MAX_TOKENS = 8192  # of text that build, validate and diff measure on
ANSWER_TOKENS = 512  # that eval lets a model write
THINKING_BUDGETS = (0, 128, 512, 2048, None)  # in tokens; None: no limit
BENCH_PROMPT, BENCH_NEW, BENCH_DEPTHS, BENCH_REPEATS = 512, 64, (0, 512, 4096), 3
DEMO_FOLDER = "q3edge-demo"
MAX_BATCH = 8  # answers that are computed at once
MAX_QUEUE, PORT = 128, 8000  # answers that wait in a server, and where it listens
MIN_TOKENS_PER_SECOND = 5.0  # that zoo asks for: about as fast as people read


def demo_format(moe: bool) -> str:
    """Format of 4 bits that the demo shows: the default, but int4 of the dense model: its head is too small."""
    return FORMAT if moe else "int4"
