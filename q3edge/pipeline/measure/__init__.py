"""Measurement of artifacts: distance, scores, speed, gates, reports."""
