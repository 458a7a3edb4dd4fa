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
    legs = Legs([Leg(0, 10, 0.0, "planned")]).replanned(4, 16, "faster")
    assert legs.progress(4) == pytest.approx(0.4)
    assert legs.progress(12) == pytest.approx(0.7)
    assert legs.total_steps == 20
    assert legs.is_decided_after(4) and not legs.is_decided_after(5)


def test_an_extension_starts_again() -> None:
    legs = Legs([Leg(0, 10, 0.0, "planned")]).with_legs(Leg(10, 20, 0.0, "extended", decided=10))
    assert legs.progress(9) == pytest.approx(0.9)
    assert legs.progress(10) == 0.0
    assert Legs.from_json(legs.to_json()).legs == legs.legs


def coarse_and_fine() -> Legs:
    return Legs([Leg(0, 20, 0.0, "planned", until=0.6, budget_share=0.5, shrink=2), Leg(20, 30, 0.6, "planned")])


def test_legs_follow_each_other() -> None:
    legs = coarse_and_fine()
    assert [legs.progress(step) for step in (0, 10, 20, 25, 30)] == pytest.approx([0.0, 0.3, 0.6, 0.8, 1.0])
    assert [legs.at(step).shrink for step in (0, 19, 20, 29)] == [2, 2, 1, 1]


def test_a_replan_of_the_first_leg_stretches_the_second() -> None:
    legs = coarse_and_fine().replanned(10, 30, "faster")
    assert legs.total_steps == 60
    assert [legs.at(step).shrink for step in (10, 20, 39, 40)] == [2, 2, 2, 1]
    assert [legs.progress(step) for step in (10, 25, 40, 50)] == pytest.approx([0.3, 0.45, 0.6, 0.8])


def test_a_resumed_run_sees_what_held_at_each_step() -> None:
    before, after = coarse_and_fine(), coarse_and_fine().replanned(10, 4, "slower").replanned(15, 9, "faster")
    assert [after.progress(step) for step in range(10)] == [before.progress(step) for step in range(10)]
    assert after.course(9) == before.course(9) and after.course(9)[-1].end == 30
    assert (after.course(14)[-1].end, after.total_steps) == (21, 24)
    assert after.is_decided_after(15) and not after.is_decided_after(16) and not before.is_decided_after(0)
