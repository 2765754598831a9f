"""Quantized layouts of other tools, a file each: which tensors hold a matrix, and what they mean.

Each file derives from `Checkpoint` and knows nothing of the others, but for AutoRound, which writes GPTQ's and AWQ's
layouts; `q3edge.checkpoint.opening` lists them.
"""
