"""What an artifact is worth: distance, scores, speed, gates, reports."""
