"""Settings of every test run."""

import os
import signal
import tempfile

import torch
from hypothesis import settings

# Tiny tensors: torch's threads would spend their time waiting for each other.
torch.set_num_threads(1)

# A shell's background job ignores Ctrl-C, and so would the commands that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No property test is decided by the clock: an example that waits for a busy machine is no failure.
settings.register_profile("q3edge", deadline=None)
settings.load_profile("q3edge")

# What is kept between runs goes here, not among the user's own: packed weights of hundreds of small models.
_KEPT = tempfile.TemporaryDirectory(prefix="q3edge-tests-", ignore_cleanup_errors=True)
os.environ["XDG_CACHE_HOME"] = _KEPT.name
os.environ.pop("Q3EDGE_CACHE", None)
