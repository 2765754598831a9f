"""The version of q3edge: read by the build, the manifest and `q3edge --version`."""

VERSION = "0.1.0"
