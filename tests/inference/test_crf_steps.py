"""The iterations of the CRF as a picture."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.inference.crf_steps import GAP, CrfSteps
from perpixel.labels import ClassInfo, ClassTable

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))


@pytest.mark.parametrize(("iterations", "shown"), [(0, [0]), (1, [0, 1]), (5, [0, 1, 2, 5]), (10, [0, 1, 2, 5, 10])])
def test_first_iterations_and_the_last_are_shown(iterations: int, shown: list[int]) -> None:
    steps = CrfSteps(np.zeros((8, 10, 3), np.uint8), CLASSES, iterations)
    for iteration in range(iterations + 1):
        steps(iteration, np.full((2, 8, 10), 0.5, np.float32))
    assert steps.shown == shown
    assert steps.picture().shape == (2 * (8 + GAP), (1 + len(shown)) * (10 + GAP), 3)


def test_colours_above_and_probabilities_below() -> None:
    steps = CrfSteps(np.full((8, 10, 3), 90, np.uint8), CLASSES, 0)
    marginals = np.stack([np.full((8, 10), 0.2), np.full((8, 10), 0.8)]).astype(np.float32)
    steps(0, marginals)
    picture = steps.picture()
    column = 10 + GAP
    assert picture[3, 3].tolist() == [90, 90, 90]
    assert picture[3, column + 3].tolist() == [250, 10, 20]
    assert picture[8 + GAP + 3, column + 3].tolist() == [204, 204, 204]


def test_large_images_are_shown_small() -> None:
    steps = CrfSteps(np.zeros((800, 1600, 1), np.uint16), CLASSES, 0)
    steps(0, np.full((2, 800, 1600), 0.5, np.float32))
    assert steps.size == (160, 320)
    assert steps.picture().shape == (2 * (160 + GAP), 2 * (320 + GAP), 3)
