"""Training loops of the demo generators."""
