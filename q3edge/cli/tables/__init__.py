"""Results as plain text for a terminal. Objects in, strings out."""
