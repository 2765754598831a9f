"""Generated answers and their scoring."""
