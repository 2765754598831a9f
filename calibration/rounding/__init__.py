"""Rounding of one matrix: grids, channel scaling, GPTQ and its refinement, rounding to nearest."""
