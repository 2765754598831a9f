"""Layers and scales trained towards the float model."""
