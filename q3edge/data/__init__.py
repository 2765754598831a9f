"""Files that ship with the package: the embedded model and the default validation text."""
