"""Signals that arrive where Python drops exceptions end a search all the same.

Each test is a process of its own: OpenVINO's CPU plugin leaves the main thread with an alternate
signal stack that it has freed, and any signal that Python handles then ends the process.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

AT_ONCE = """
for number in (signal.SIGINT, signal.SIGTERM):
    try:
        with Signals():
            os.kill(os.getpid(), number)
    except Stopped as stopped:
        assert stopped.number == number
    else:
        raise AssertionError(number)
"""
LOST = """
heard = []
with Signals() as signals:
    listener = signals.checked(heard.append)
    listener("before")
    thing = Thing()
    gone = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing
    assert gone() is None  # and the search would go on
    for function in (lambda: listener("after"), signals.check):
        try:
            function()
        except Stopped:
            continue
        raise AssertionError(function)
assert heard == ["before"]
"""
HANDLERS = """
before = signal.getsignal(signal.SIGTERM)
with Signals():
    assert signal.getsignal(signal.SIGTERM) != before
assert signal.getsignal(signal.SIGTERM) == before
signal.signal(signal.SIGINT, signal.SIG_IGN)
with Signals() as signals:
    os.kill(os.getpid(), signal.SIGINT)
    signals.check()
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
START = """
import os, signal, weakref
from search.signals import Signals, Stopped
class Thing: pass
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def run(code: str) -> str:
    """Return what a program says to stderr that must not fail."""
    command = [sys.executable, "-c", START + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_signal_is_raised_at_once() -> None:
    assert run(AT_ONCE) == ""


def test_a_signal_lost_in_a_callback_is_raised_at_the_next_check() -> None:
    assert "Exception ignored in" in run(LOST)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    assert run(HANDLERS) == ""
