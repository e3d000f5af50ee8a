"""Techniques that train the compressed model against the uncompressed one."""
