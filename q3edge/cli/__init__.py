"""The command line: one file per command, which parses flags, calls the public function, and prints."""
