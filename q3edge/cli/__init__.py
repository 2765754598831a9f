"""The command line: one file per verb, each parses flags, calls the public function, and prints."""
