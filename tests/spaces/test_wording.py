"""What libraries report becomes a part of one sentence."""

from spaces._wording import LONGEST, told


def test_errors_are_told_in_one_line_without_colours() -> None:
    assert told(ValueError("\n \x1b[96mno  such\x1b[0m axis.\nNext steps: ask")) == "no such axis"
    assert told(KeyError()) == "KeyError"
    assert told(ValueError("x" * 500)) == "x" * LONGEST + "..."
