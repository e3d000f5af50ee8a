"""A space of named values without techniques, for use outside of an experiment."""

import dataclasses
from collections.abc import Mapping, Sequence

from spaces import Dimension, Point, Space, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters(Space):
    """A space that is given by its dimensions alone; every point is its own simplest form.

    A subclass may know simpler forms, which must be cheap to tell.
    """

    slots: tuple[()] = ()
    ranges: Mapping[str, Dimension]
    """The dimensions by name."""

    def dimensions(self) -> dict[str, Dimension]:
        """Return every dimension by name."""
        return dict(self.ranges)

    def canonical(self, point: Mapping[str, Value]) -> Point:
        """Return the point as it is."""
        return dict(point)


def simplified(space: Space, points: Sequence[Point]) -> Sequence[Point]:
    """Return the simplest forms of points if that is cheap, else the points as they are.

    Techniques take a good part of a millisecond for each point, too much for thousands.
    """
    return [space.canonical(p) for p in points] if isinstance(space, Parameters) else points
