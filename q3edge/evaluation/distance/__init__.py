"""Distance of two models' predictions, token by token, and its averages with confidence intervals."""
