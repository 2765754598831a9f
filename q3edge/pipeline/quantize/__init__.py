"""A float checkpoint becomes a quantized one: method, calibration, budget, tuning, and what it will take."""
