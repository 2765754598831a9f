"""Pipelines: one function per command, which joins the packages that do the work and writes one folder."""
