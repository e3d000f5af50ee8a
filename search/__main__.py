"""Lets `python -m search` run the command line."""

import sys

from search.cli import main

sys.exit(main())
