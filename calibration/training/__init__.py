"""Training of whole layers (`reconstruct`) and of scales and norms (`tune`) towards the float model."""
