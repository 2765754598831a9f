"""Scorecards of suites: passages, both models' readings, slices and their scores."""
