"""Catalogue of objectives: `[objectives.NAME]` is the file NAME.py."""
