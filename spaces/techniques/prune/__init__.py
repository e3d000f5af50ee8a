"""Remove parts of the model."""
