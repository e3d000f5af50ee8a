"""The damage of removing units, known at a few widths: what is taken for those between."""

import itertools
import math

import pytest

from spaces.pruning.surgeon import Curve


def damages(*measured: tuple[int, float], until: int) -> list[float]:
    curve = Curve(order=tuple(range(until)), measured=((0, 0.0), *measured))
    return [curve.damage(gone) for gone in range(until + 1)]


@pytest.mark.parametrize(
    "measured",
    [
        ((4, 0.2), (8, 3.0)),
        ((8, 0.2),),
        ((4, 0.0), (8, 3.0)),
        ((4, 0.0), (8, 0.0)),
        ((4, 0.2), (8, 0.1)),  # a measurement's noise
        ((4, -1e-9), (8, 0.5)),
        ((2, 1e-12), (8, 0.5)),
        ((1, 0.2), (2, 0.3), (8, 0.3)),
    ],
)
def test_damage_starts_at_zero_and_never_falls(measured: tuple[tuple[int, float], ...]) -> None:
    found = damages(*measured, until=8)
    assert found[0] == 0
    assert all(a <= b for a, b in itertools.pairwise(found))
    assert found[8] == pytest.approx(max(d for _, d in measured))


def test_damage_is_what_was_measured_where_it_was() -> None:
    found = damages((3, 0.2), (6, 0.9), until=6)
    assert (found[3], found[6]) == (pytest.approx(0.2), pytest.approx(0.9))


def test_a_power_of_the_units_gone_is_found_from_two_measurements() -> None:
    cube = damages((4, 0.064), (8, 0.512), until=8)
    assert cube[4:] == pytest.approx([(n / 10) ** 3 for n in range(4, 9)])
    square = damages((4, 0.16), (8, 0.64), until=8)
    assert square == pytest.approx([(n / 10) ** 2 for n in range(9)])


def test_damage_beyond_the_last_measurement_is_unknown() -> None:
    assert Curve(order=(0, 1, 2), measured=((0, 0.0), (2, 0.1))).damage(3) == math.inf
    assert Curve(order=(0, 1, 2), measured=()).damage(1) == math.inf
