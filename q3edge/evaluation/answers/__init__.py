"""What models answer in their own words, and whether it is right."""
