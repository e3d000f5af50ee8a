"""Techniques that remove channels, blocks or single weights of the model."""
