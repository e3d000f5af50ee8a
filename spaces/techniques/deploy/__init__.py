"""Techniques that choose the artifact's runtime and the compression of its files."""
