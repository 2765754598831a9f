"""Files read strictly and written whole: JSON, JSON Lines, text."""
