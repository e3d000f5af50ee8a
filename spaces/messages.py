"""Readable one-line messages from the exceptions of libraries and models."""

import re

LONGEST = 300
"""Largest number of characters of a message."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ADVICE = re.compile(r"\s*(This is step \d/\d|Next steps:|For more information|See https?://).*")
_PLACES = ("Exception from ", "Check '")
"""Beginnings of lines that name a place in a library's source."""
_CAUSES = (
    (re.compile(r"data.dependent", re.I), "its code branches on values (data-dependent)"),
    (
        re.compile(
            r"operator '([\w:.]+)' to ONNX|No ONNX function found for <OpOverload\(op='(.+?)'"
        ),
        "ONNX has no counterpart of its operation {}",
    ),
    (re.compile(r"no output depends on"), "no output depends on its weights"),
)


def sentence(text: str) -> str:
    """Return the first informative line of `text`, without colours and advice."""
    lines = [_ADVICE.sub("", _COLOURS.sub("", line)).strip() for line in text.splitlines()]
    nonempty = [line for line in lines if line]
    informative = [line for line in nonempty if not line.startswith(_PLACES)]
    first = next(iter(informative or nonempty), "")
    return first if len(first) <= LONGEST else f"{first[: LONGEST - 3].rstrip()}..."


def first_line(error: BaseException) -> str:
    """Return the message of an error in one line, without the final period."""
    return sentence(str(error)).rstrip(".") or type(error).__name__


def said(error: BaseException) -> str:
    """Return the type and the message of an error in one line."""
    return f"{type(error).__name__}: {sentence(str(error)) or 'no message'}"


def untraced(error: BaseException) -> str:
    """Return the reason why a model could not be traced or exported, in terms of the model.

    The library's own message describes its tracer, not the model; it belongs in the log.
    """
    chain: BaseException | None = error
    while chain is not None:
        for pattern, words in _CAUSES:
            if match := pattern.search(str(chain)):
                return words.format(*filter(None, match.groups()))
        chain = chain.__cause__
    return "its code does what cannot be traced"
