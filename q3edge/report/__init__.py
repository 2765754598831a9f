"""Results for people: model cards of artifacts, and reports as an HTML page, JSON and Markdown."""
