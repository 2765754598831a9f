"""Numbers that a command and the function behind it have as their default, apart from both: `--help` needs no numpy."""

from __future__ import annotations

MIN_RECOVERY, MAX_KL = 97.0, 0.05  # of a variant to recommend: percent and nats
MAX_TOKENS = 8192  # of text that build, validate and diff judge on
ANSWER_TOKENS = 512  # that eval lets a model write
BENCH_PROMPT, BENCH_NEW, BENCH_DEPTHS, BENCH_REPEATS = 512, 64, (0, 512, 4096), 3
