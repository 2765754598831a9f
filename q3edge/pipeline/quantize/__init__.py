"""Quantization of a float checkpoint: method, calibration, budget, tuning, and the predicted cost."""
