"""From token ids to more token ids: settings, sampling, the loop, and drafts that make it faster."""
