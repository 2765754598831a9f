"""Files on a disk: read strictly, written whole, with checksums. Knows bytes, text and arrays, but no model."""
