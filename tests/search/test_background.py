"""Writing beside the search: nobody waits, the last word is complete, and no fault is lost."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from search.reporting.summary import Summary
from search.tracking.background import Background


class Slow:
    """A tracker that writes no sooner than it may."""

    address = "somewhere"

    def __init__(self) -> None:
        self.may, self.begun = threading.Event(), threading.Event()
        self.written: list[Any] = []
        self.error: Exception | None = None

    def location(self) -> tuple[str, str] | None:
        return ("1", "2") if self.written else None

    def sync(self, summary: Summary) -> bool:
        self.begun.set()
        assert self.may.wait(60)
        if self.error:
            raise self.error
        self.written.append(summary)
        return True

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        self.written.append((summary, status))
        return True


def summary(name: str) -> Summary:
    return cast(Summary, name)


def test_the_search_goes_on_while_the_store_is_written_and_the_last_word_comes_last() -> None:
    slow = Slow()
    mirror = Background(lambda: slow)
    mirror.sync(summary("first"))
    assert slow.begun.wait(60)
    mirror.sync(summary("second"))  # neither waits for the store
    mirror.sync(summary("third"))
    assert slow.written == []
    slow.may.set()
    assert mirror.finish(summary("last"), Path(), "KILLED")
    assert slow.written[0] == "first"
    assert slow.written[-1] == ("last", "KILLED")
    assert "second" not in slow.written  # the third says all that it says
    assert (mirror.address, mirror.location()) == ("somewhere", ("1", "2"))


def test_a_fault_of_the_tracker_is_raised_where_it_is_called_next() -> None:
    slow = Slow()
    slow.error = TypeError("not a metric")
    slow.may.set()
    mirror = Background(lambda: slow)
    mirror.sync(summary("first"))
    with pytest.raises(TypeError, match="not a metric"):
        mirror.finish(summary("last"), Path())


def test_what_makes_the_tracker_runs_beside_the_search_once() -> None:
    made: list[int | None] = []

    def make() -> Slow:
        made.append(threading.current_thread().ident)
        slow = Slow()
        slow.may.set()
        return slow

    mirror = Background(make)
    mirror.sync(summary("first"))
    mirror.finish(summary("last"), Path())
    assert len(made) == 1
    assert made[0] != threading.current_thread().ident
