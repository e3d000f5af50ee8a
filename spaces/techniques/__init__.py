"""The catalogue of techniques: `[space.FAMILY.NAME]` is the file FAMILY/NAME.py."""
