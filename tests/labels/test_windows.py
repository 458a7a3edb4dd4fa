"""Windows of masks are those of the drawn masks."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.labels import Runs, cut_runs, place_runs


def draw(seed: int, size: tuple[int, int] = (13, 17), count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *size)) < rng.uniform(0, 1, (count, 1, 1))
    masks[0], masks[1] = False, True  # an empty one, and one whose single span goes over all columns
    return masks


def same(one: Runs, other: Runs) -> bool:
    spans, starts = np.array_equal(one.spans, other.spans), np.array_equal(one.starts, other.starts)
    return one.size == other.size and spans and starts


@pytest.mark.parametrize("window", [(0, 0, 17, 13), (3, 2, 9, 11), (5, 0, 6, 13), (0, 4, 17, 5), (4, 4, 4, 9)])
def test_cut(window: tuple[int, int, int, int]) -> None:
    masks = draw(1)
    x0, y0, x1, y1 = window
    wanted = np.zeros_like(masks)
    wanted[:, y0:y1, x0:x1] = masks[:, y0:y1, x0:x1]
    assert same(cut_runs(Runs.from_masks(masks), window), Runs.from_masks(wanted))


@pytest.mark.parametrize("corner", [(0, 0), (4, 6), (-3, -2), (-3, 5), (20, 3), (-40, 0)])
@pytest.mark.parametrize("size", [(13, 17), (30, 40), (5, 4)])
def test_place(corner: tuple[int, int], size: tuple[int, int]) -> None:
    masks = draw(2)
    far = np.zeros((len(masks), 100, 100), bool)
    far[:, 45 + corner[0] : 58 + corner[0], 45 + corner[1] : 62 + corner[1]] = masks
    wanted = far[:, 45 : 45 + size[0], 45 : 45 + size[1]]
    assert same(place_runs(Runs.from_masks(masks), corner, size), Runs.from_masks(wanted))


def test_windows_of_full_columns_keep_one_form() -> None:
    masks = Runs.from_masks(np.ones((1, 4, 6), bool))
    assert cut_runs(masks, (2, 0, 5, 4)).spans.tolist() == [[8, 20]]
    assert place_runs(masks, (0, -2), (4, 2)).spans.tolist() == [[0, 8]]
    assert place_runs(masks, (1, 0), (6, 6)).spans.tolist() == [[6 * col + 1, 6 * col + 5] for col in range(6)]


def test_no_objects() -> None:
    assert len(cut_runs(Runs.join((4, 6), []), (0, 0, 2, 2))) == 0
    assert place_runs(Runs.join((4, 6), []), (1, 1), (9, 9)).size == (9, 9)
