"""Rates over progress, and progress over legs."""

from __future__ import annotations

import pytest

from perpixel.engine.schedules import SCHEDULES, Leg, Legs, onecycle, poly


def test_poly_by_hand() -> None:
    assert poly(0.5) == pytest.approx(0.5**0.9)
    assert poly(1.0) == 0.0
    assert poly(0.0) == pytest.approx(0.05)


def test_onecycle_by_hand() -> None:
    assert onecycle(0.0) == pytest.approx(0.05)
    assert onecycle(0.15) == pytest.approx(1.0)
    assert onecycle(0.575) == pytest.approx(0.5)
    assert onecycle(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_stay_between_zero_and_peak(name: str) -> None:
    rates = [SCHEDULES[name](i / 1000) for i in range(1001)]
    assert min(rates) >= 0 and max(rates) <= 1


def test_one_leg_is_a_straight_line() -> None:
    legs = Legs([Leg(0, 10, 0.0, "planned")])
    assert [legs.progress(step) for step in (0, 5, 10, 12)] == [0.0, 0.5, 1.0, 1.0]


def test_a_replanned_leg_does_not_jump() -> None:
    legs = Legs([Leg(0, 10, 0.0, "planned")]).with_leg(Leg(4, 20, 0.4, "slower"))
    assert legs.progress(4) == pytest.approx(0.4)
    assert legs.progress(12) == pytest.approx(0.7)
    assert legs.total_steps == 20
    assert legs.is_decided_after(3) and not legs.is_decided_after(4)


def test_an_extension_starts_again() -> None:
    legs = Legs([Leg(0, 10, 0.0, "planned")]).with_leg(Leg(10, 20, 0.0, "extended"))
    assert legs.progress(9) == pytest.approx(0.9)
    assert legs.progress(10) == 0.0
    assert Legs.from_json(legs.to_json()).legs == legs.legs
