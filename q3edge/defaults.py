"""Defaults of options, each once: for the public functions, the command's flags, and what does the work.

They stand apart from the code that uses them, so that `--help` imports neither numpy nor torch.
"""

FORMAT = "int4"
SAMPLES, SEQ_LEN = 128, 512  # rows of calibration text, and tokens in each
MAX_TOKENS = 8192  # that a validation judges on, at most
MAX_NEW_TOKENS = 512  # of one answer in an evaluation
MIN_RECOVERY, MAX_KL = 97.0, 0.05  # percent and nats: what a variant has to reach to be recommended
PROMPT, NEW, REPEATS = 512, 64, 3  # tokens prefilled, tokens decoded, and processes of a benchmark
DEMO_FOLDER = "q3edge-demo"
