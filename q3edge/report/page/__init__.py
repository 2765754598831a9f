"""A report as one HTML page with charts."""
