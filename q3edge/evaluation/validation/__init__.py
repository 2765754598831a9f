"""Validation of an artifact against its float model: distances on text, and checks that pass or fail."""
