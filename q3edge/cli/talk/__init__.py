"""A conversation in the terminal: lines that are typed, commands among them, and what is kept of both."""
