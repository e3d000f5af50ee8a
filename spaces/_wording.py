"""What libraries report, as part of a sentence of ours."""

import re

LONGEST = 200
"""Characters that are kept."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def lines(error: BaseException) -> list[str]:
    """Return the lines of an error's message that are not empty, without colours."""
    split = _COLOURS.sub("", str(error)).splitlines()
    return [" ".join(line.split()) for line in split if line.strip()]


def told(error: BaseException) -> str:
    """Return the first line of an error's message without its end; its kind if there is none."""
    said = (lines(error) or [type(error).__name__])[0].rstrip(".:")
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
