"""What is told of a study: console, report, picture, tables."""

from search.reporting.console import Console, front_table
from search.reporting.html import trust
from search.reporting.summarize import summary_of
from search.reporting.summary import Summary, change, headline, title
from search.reporting.wording import quantity, short

__all__ = [
    "Console",
    "Summary",
    "change",
    "front_table",
    "headline",
    "html",
    "quantity",
    "short",
    "summary_of",
    "title",
    "trust",
]
