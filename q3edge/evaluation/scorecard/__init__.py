"""From suites to a scorecard: passages, both models' readings, slices and their scores."""
