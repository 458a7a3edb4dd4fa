"""Default colours."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.labels import default_colours
from perpixel.labels.colours import BACKGROUND


@pytest.mark.parametrize("count", [0, 1, 2, 13, 150, 1000, 5000])
@pytest.mark.parametrize("background", [False, True])
def test_all_differ(count: int, background: bool) -> None:
    colours = default_colours(count, background=background)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == count
    if count:
        assert (tuple(colours[0].tolist()) == BACKGROUND) == background


def test_the_first_are_easy_to_tell_apart() -> None:
    colours = default_colours(13, background=True).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(13, dtype=int)
    assert apart.min() >= 60


def test_more_classes_keep_the_colours_of_fewer() -> None:
    assert np.array_equal(default_colours(200)[:20], default_colours(20))
