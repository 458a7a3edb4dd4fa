"""Components by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.inference.components import LARGEST_ONLY, ComponentRule, choose_rules, clean_components

PLANE = np.array(
    [
        [1, 1, 0, 2, 0],
        [1, 0, 0, 0, 2],
        [0, 0, 1, 0, 0],
        [2, 0, 0, 0, 1],
    ],
    np.uint8,
)


def test_largest_only_by_hand() -> None:
    before = PLANE.copy()
    cleaned = clean_components(PLANE, {1: LARGEST_ONLY})
    expected = PLANE.copy()
    expected[2, 2] = expected[3, 4] = 0
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(PLANE, before)
    assert cleaned.dtype == np.uint8
    both = clean_components(PLANE, {1: LARGEST_ONLY, 2: LARGEST_ONLY}, background=9)
    expected[2, 2] = expected[3, 4] = expected[3, 0] = 9
    np.testing.assert_array_equal(both, expected)


def test_corners_join_unless_faces_are_asked_for() -> None:
    assert (clean_components(PLANE, {2: ComponentRule(min_size=2)}) == 2).sum() == 2
    assert (clean_components(PLANE, {2: ComponentRule(min_size=2)}, by_faces=True) == 2).sum() == 0
    # Of three alike the first in the order of the array stays.
    first = clean_components(PLANE, {2: LARGEST_ONLY}, by_faces=True)
    assert np.argwhere(first == 2).tolist() == [[0, 3]]


def test_small_ones_are_dropped_in_volumes() -> None:
    volume = np.zeros((9, 9, 9), np.uint16)
    volume[:2, :2, :2] = 1  # 8
    volume[4:7, 4:7, 4:7] = 1  # 27
    volume[8, 8, 8] = 1
    volume[5, 5, 5] = 3  # leaves 26 of the class around it
    for size, left in ((1, 35), (2, 34), (9, 26), (27, 0)):
        cleaned = clean_components(volume, {1: ComponentRule(min_size=size), 2: LARGEST_ONLY})
        assert (cleaned == 1).sum() == left and cleaned[5, 5, 5] == 3 and cleaned.dtype == np.uint16
    assert (clean_components(volume, {1: ComponentRule(True, 27)}) == 1).sum() == 0
    with pytest.raises(InputError, match=r"label map \(9,\): give \(H, W\) or \(D, H, W\)"):
        clean_components(volume[0, 0], {1: LARGEST_ONLY})


def test_rules_are_chosen_where_they_are_strictly_better() -> None:
    without = [[0.9, 0.5, 0.80, np.nan], [0.9, 0.7, 0.80, np.nan]]
    largest = [[0.9, 0.6, 0.85, np.nan], [0.9, 0.6, 0.81, np.nan]]
    small = [[0.8, 0.9, 0.85, np.nan], [0.9, 0.9, 0.81, 0.5]]
    fifty = ComponentRule(min_size=50)
    assert choose_rules(without, {LARGEST_ONLY: largest}) == {2: LARGEST_ONLY}
    assert choose_rules(without, {LARGEST_ONLY: largest, fifty: small}) == {1: fifty, 2: LARGEST_ONLY}
    assert choose_rules(without, {}) == {}


def test_a_wrong_find_that_goes_helps() -> None:
    # In the second case the class is not there: 0 as predicted, nothing to score once its one voxel is gone.
    assert choose_rules([[0.8], [0.0]], {LARGEST_ONLY: [[0.8], [np.nan]]}) == {0: LARGEST_ONLY}


def test_tables_must_be_alike() -> None:
    with pytest.raises(InputError, match=r"shapes \[\(1, 2\), \(2, 2\)\]"):
        choose_rules([[0.5, 0.5]], {LARGEST_ONLY: [[0.5, 0.5], [0.5, 0.5]]})
