"""What is reported of a study: console, report, picture, tables.

`html` and `frame` import plotting and tables, which takes a second: only who writes them does.
"""

from search.reporting.console import Console, front_table
from search.reporting.summary import Summary, summary_of
from search.reporting.wording import change, headline, quantity, title, trust

__all__ = [
    "Console",
    "Summary",
    "change",
    "frame",
    "front_table",
    "headline",
    "html",
    "quantity",
    "summary_of",
    "title",
    "trust",
]
