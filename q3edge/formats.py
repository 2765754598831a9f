"""The names of the formats, apart from what they mean (q3edge.recipe), so that `--help` need not import numpy."""

FORMATS = ("int4", "int8", "int8-dynamic")
FLOAT = "float"
