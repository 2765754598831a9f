"""One matrix: grids, GPTQ and its refinement, rounding to nearest."""
