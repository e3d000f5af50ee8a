"""Signals that arrive where Python drops exceptions end a search all the same."""

import os
import signal
import weakref

import pytest

from search.signals import Signals, Stopped


class Thing:
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_at_once(number: int) -> None:
    with pytest.raises(Stopped) as stopped, Signals():
        os.kill(os.getpid(), number)
    assert stopped.value.number == number


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_lost_in_a_callback_is_raised_at_the_next_check() -> None:
    heard: list[str] = []
    with Signals() as signals:
        listener = signals.checked(heard.append)
        listener("before")
        thing = Thing()
        gone = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
        del thing
        assert gone() is None  # and the search would go on
        with pytest.raises(Stopped):
            listener("after")
        with pytest.raises(Stopped):
            signals.check()
    assert heard == ["before"]


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            signals.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, own)
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
