"""Reasons are one sentence, whatever was raised."""

import pytest

from spaces.messages import LONGEST, first_line, said, sentence, untraced


def raised(message: str, cause: Exception | None = None) -> Exception:
    error = RuntimeError(message)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\x1b[96mIt failed\x1b[0m here.", "It failed here."),
        (
            "Failed to export. \x1b[96mThis is step 1/3\x1b[0m of exporting. Next steps:\n- Modify",
            "Failed to export.",
        ),
        ("\n\n  second line counts\nthird", "second line counts"),
        ("Exception from src/core.cpp:42:\nCheck 'x' failed\nsizes differ", "sizes differ"),
        ("Check 'x' failed", "Check 'x' failed"),
        ("", ""),
    ],
)
def test_the_first_line_that_says_something(text: str, told: str) -> None:
    assert sentence(text) == told


def test_long_reasons_are_cut() -> None:
    assert len(sentence("x" * 1000)) == LONGEST


def test_an_error_without_words_is_named() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert said(ValueError()) == "ValueError: no message"
    assert said(ValueError("no\nmore")) == "ValueError: no"


def test_what_a_tracer_meets_is_told_in_words_of_ours() -> None:
    guard = raised("Could not guard on data-dependent expression Eq(u0, 1)")
    assert "branches on values" in untraced(raised("Failed to export.", guard))
    operator = raised("Exporting the operator 'aten::linalg_eigvals' to ONNX is not supported")
    assert "no counterpart of its operation aten::linalg_eigvals" in untraced(operator)
    other = raised("unsupported operand type(s) for +: 'int' and 'NoneType'")
    assert "NoneType" not in untraced(other)
    assert untraced(other) == "its code does what cannot be traced"
