"""What libraries report, as part of a sentence of ours."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LONGEST = 200
"""Characters that are kept."""


def told(error: BaseException) -> str:
    """Return the first line that an error says, without colours; its kind if it says nothing."""
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    line = " ".join(lines[0].split()).rstrip(".:") if lines else type(error).__name__
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
