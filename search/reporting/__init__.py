"""Reports of a study: console, HTML report, PNG picture, and tables.

`html` and `frame` import plotting and tables, which takes a second, and are imported on use.
"""

from search.reporting.console import Console, front_table
from search.reporting.summary import Summary, summary_of
from search.reporting.wording import change, figures, headline, quantity, title, trust

__all__ = [
    "Console",
    "Summary",
    "change",
    "figures",
    "frame",
    "front_table",
    "headline",
    "html",
    "quantity",
    "summary_of",
    "title",
    "trust",
]
