"""Budgets: the cost of every input group at every width, and the choice of widths for a number of bytes."""
