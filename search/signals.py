"""SIGINT and SIGTERM as exceptions that end a search, even if Python drops the first one."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec, Self

Parameters = ParamSpec("Parameters")


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Context in which SIGINT and SIGTERM raise Stopped: at once, or else at the next check.

    Python drops an exception that a handler raises in a finalizer or a weak reference's callback,
    such as those of the database's listeners; without the check, the search would go on.
    """

    def __init__(self) -> None:
        self._arrived: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background jobs
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._arrived = number
        raise Stopped(number)

    @property
    def number(self) -> int:
        """Signal that has arrived, SIGINT before one has."""
        return self._arrived or signal.SIGINT

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        if self._arrived is not None:
            raise Stopped(self._arrived)

    def checked(self, function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        """Return `function` with a check before each call."""

        def checking(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            self.check()
            function(*args, **kwargs)

        return checking
