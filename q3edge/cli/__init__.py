"""The command line: one file per verb, each a thin layer over q3edge.pipeline or q3edge.runtime."""
