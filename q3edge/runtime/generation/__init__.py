"""From token ids to more token ids: settings, sampling, the loop, guesses that make it faster."""
