"""Requests that share forward passes: rows of the KV cache and what they hold, the schedule, loops over one text."""
