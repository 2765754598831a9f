"""Settings of every test run."""

import torch

# Tiny tensors: torch's threads would spend their time waiting for each other.
torch.set_num_threads(1)
