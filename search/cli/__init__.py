"""The command line: `python -m search COMMAND`."""

from search.cli.parser import main

__all__ = [
    "main",
]
