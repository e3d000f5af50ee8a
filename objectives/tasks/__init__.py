"""Catalogue of tasks: `[task.NAME]` is the file NAME.py or the package NAME."""
