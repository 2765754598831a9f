"""Options that several commands share. A flag's name, default and range are those of the public function's argument."""
