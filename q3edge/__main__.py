"""`python -m q3edge`."""

from q3edge.cli.start import entry_point

if __name__ == "__main__":
    entry_point()
