"""Reasons as people read them: one sentence, drawn from what libraries and models raise."""

import re

LONGEST = 300
"""Characters of a reason at most."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ADVICE = re.compile(r"\s*(This is step \d/\d|Next steps:|For more information|See https?://).*")
_PLACES = ("Exception from ", "Check '")
"""How lines begin that name a place in a library's source."""
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
    """Return the first line of `text` that says something, without colours and advice."""
    lines = [_ADVICE.sub("", _COLOURS.sub("", line)).strip() for line in text.splitlines()]
    told = [line for line in lines if line]
    said = [line for line in told if not line.startswith(_PLACES)] or told or [""]
    return said[0] if len(said[0]) <= LONGEST else f"{said[0][: LONGEST - 3].rstrip()}..."


def first_line(error: BaseException) -> str:
    """Return what an error says in one line, without the final period."""
    return sentence(str(error)).rstrip(".") or type(error).__name__


def said(error: BaseException) -> str:
    """Return an error's type and what it says in one line."""
    return f"{type(error).__name__}: {sentence(str(error)) or 'no message'}"


def untraced(error: BaseException) -> str:
    """Return in words of ours why a model could not be traced or exported.

    What its code or a library raised there is for the log: it speaks of tracers, not of models.
    """
    chain: BaseException | None = error
    while chain is not None:
        for pattern, words in _CAUSES:
            if found := pattern.search(str(chain)):
                return words.format(*filter(None, found.groups()))
        chain = chain.__cause__
    return "its code does what cannot be traced"
