"""Techniques that choose floating-point types."""
