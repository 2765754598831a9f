"""Files on a disk, read strictly, written atomically, with checksums: bytes, text and arrays, of no model."""
