"""The catalogue of tasks: `[task.NAME]` is the file NAME.py."""
