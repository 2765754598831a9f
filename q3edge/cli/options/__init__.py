"""Options that several verbs share, and what they ask for."""
