"""Quantized weights: schemes, scales, tensors of codes, their packing, and recipes. numpy only."""
