"""Choose floating-point types."""
