"""What models are asked: items, suites, and the files they are read from."""
