"""Outlines and run lengths to pixels, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpixel.data.shapes import circle_points, fill_polygon, fill_runs, read_run_text, to_runs
from perpixel.errors import InputError


def filled(points: list[tuple[float, float]], size: tuple[int, int] = (5, 6)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    fill_polygon(mask, np.array(points, dtype=float))
    return mask


def test_a_rectangle_covers_the_pixels_whose_centres_it_holds() -> None:
    mask = filled([(1, 1), (4, 1), (4, 3), (1, 3)])
    expected = np.zeros((5, 6), dtype=bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(mask, expected)


def test_a_triangle_by_hand() -> None:
    # Hypotenuse x + y = 4; centres with (col + .5) + (row + .5) < 4.
    mask = filled([(0, 0), (4, 0), (0, 4)])
    assert mask[:, :5].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0] * 5, [0] * 5]


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    corner = (2.7, 1.9)
    parts = [
        filled([(0, 0), (6, 0), corner]),
        filled([(6, 0), (6, 5), corner]),
        filled([(6, 5), (0, 5), corner]),
        filled([(0, 5), (0, 0), corner]),
    ]
    assert np.array_equal(sum(part.astype(int) for part in parts), np.ones((5, 6), dtype=int))


def test_parts_outside_the_image_are_cut_off() -> None:
    assert filled([(-9, -9), (99, -9), (99, 99), (-9, 99)]).all()
    assert not filled([(10, 10), (20, 10), (20, 20)]).any()
    assert not filled([(2.1, 2.1), (2.2, 2.1), (2.2, 2.2)]).any()


def test_a_circle_has_its_area() -> None:
    mask = np.zeros((200, 200), dtype=bool)
    fill_polygon(mask, circle_points(100.3, 99.8, 70))
    assert mask.sum() == pytest.approx(math.pi * 70**2, rel=2e-3)


def test_runs_go_down_the_columns() -> None:
    mask = fill_runs([1, 2, 3], (2, 3))
    assert mask.astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_compressed_runs_by_hand() -> None:
    # 5 -> '5'; 40 = 8 + 1*32 -> 'X1'; from the fourth on differences: 6 - 40... see below.
    assert read_run_text("5X1") == [5, 40]
    # Fourth count 43 is stored as 43 - 40 = 3.
    assert read_run_text("5X153") == [5, 40, 5, 43]
    # A negative difference: 38 - 40 = -2 -> 30 | sign bit -> chr(48 + 30) = 'N'.
    assert read_run_text("5X15N") == [5, 40, 5, 38]


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_runs_round_trip(flags: list[bool]) -> None:
    mask = np.array(flags).reshape(3, 4)
    assert np.array_equal(fill_runs(to_runs(mask), (3, 4)), mask)


def test_wrong_runs_are_refused() -> None:
    with pytest.raises(InputError, match=r"add up to 5, the image has 2 x 3 = 6 pixels"):
        fill_runs([2, 3], (2, 3))
    with pytest.raises(InputError, match=r"add up to 6"):
        fill_runs([-1, 7], (2, 3))
    with pytest.raises(InputError, match=r"the character '!'"):
        read_run_text("5!")
    with pytest.raises(InputError, match=r"in the middle of a count"):
        read_run_text("5X")
