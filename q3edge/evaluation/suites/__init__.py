"""Suites: the items that models are asked, and the files they are read from."""
