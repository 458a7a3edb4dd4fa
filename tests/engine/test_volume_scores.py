"""Dice of structures over cases, by hand."""

from __future__ import annotations

import math

import numpy as np

from perpixel.engine.volumes import structure_dice


def test_structure_dice_is_a_mean_over_cases_and_structures() -> None:
    """Case 1: class 1 with 2 of 3 true and 3 predicted voxels in common, Dice 2/3; class 2 in neither map.
    Case 2: class 1 perfect, Dice 1; class 2 missed, Dice 0. Means 5/6 and 0: 5/12."""
    first = np.array([[90, 1, 0], [1, 2, 0], [0, 0, 0]])
    second = np.array([[80, 0, 0], [0, 10, 0], [4, 0, 0]])
    found, by_structure = structure_dice(np.stack([first, second]))
    assert math.isclose(by_structure[1], 5 / 6) and by_structure[2] == 0
    assert math.isclose(found, 5 / 12)


def test_a_structure_that_is_nowhere_has_no_part() -> None:
    found, by_structure = structure_dice(np.array([[[5, 0, 0], [0, 5, 0], [0, 0, 0]]]))
    assert found == 1 and math.isnan(by_structure[2])
    nothing, _ = structure_dice(np.array([[[5, 0], [0, 0]]]))
    assert math.isnan(nothing)
