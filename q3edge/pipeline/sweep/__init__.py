"""Many variants of one model: asked for, built, remembered."""
