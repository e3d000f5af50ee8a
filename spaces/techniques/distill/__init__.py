"""Train against the uncompressed model."""
