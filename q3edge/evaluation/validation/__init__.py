"""Whether an artifact computes what its float model does: distances on text, and checks that pass or fail."""
