"""Results as people keep them: the model card of an artifact."""
