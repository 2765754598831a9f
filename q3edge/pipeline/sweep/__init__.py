"""Sweeps: many variants of one model, requested, built, and recorded when finished."""
