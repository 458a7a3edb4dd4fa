"""Outlines to pixels and back."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import Runs, counts_of_text, outline_polygons, polygon_spans, spans_of_counts


def fill(polygons: list, size: tuple[int, int], rule: str = "centre") -> np.ndarray:
    return Runs.join(size, [polygon_spans(polygons, size, rule=rule)]).mask(0)


@pytest.mark.parametrize("rule", ["centre", "coco"])
def test_boxes_on_whole_pixels(rule: str) -> None:
    mask = fill([[1, 2, 4, 2, 4, 5, 1, 5]], (6, 7), rule)
    assert mask.sum() == 9 and mask[2:5, 1:4].all()
    # Beyond the frame is cut off.
    assert fill([[-3, -3, 2, -3, 2, 2, -3, 2]], (6, 7), rule).sum() == 4
    assert fill([[-30, -30, 90, -30, 90, 90, -30, 90]], (6, 7), rule).all()
    assert not fill([[20, 20, 30, 20, 30, 30]], (6, 7), rule).any()
    # A hole by way of a bridge of no width; two polygons are their union.
    ring = [0, 0, 6, 0, 6, 6, 0, 6, 0, 0, 2, 2, 2, 4, 4, 4, 4, 2, 2, 2]
    assert fill([ring], (6, 7), rule).sum() == 36 - 4 and not fill([ring], (6, 7), rule)[2:4, 2:4].any()
    assert fill([[0, 0, 6, 0, 6, 6, 0, 6], [2, 2, 4, 2, 4, 4, 2, 4]], (6, 7), rule).sum() == 36


def test_the_two_rules_differ_by_rounding_to_fifths() -> None:
    # The right side at 2.59: beyond the centre of pixel 2 by both; at 2.51 rounded to 2.6; at 2.49 to 2.4.
    for x, centre, coco in ((2.59, 3, 3), (2.49, 2, 2), (2.55, 3, 3)):
        box = [0, 0, x, 0, x, 4, 0, 4]
        assert (fill([box], (4, 5)).sum() // 4, fill([box], (4, 5), "coco").sum() // 4) == (centre, coco)
    thin = [0.9, 0, 1.55, 0, 1.55, 4, 0.9, 4]
    assert fill([thin], (4, 5)).sum() == 4
    # The lower side at 2.55 rounds to 2.6; by both rules row 2, whose centre is at 2.5, is inside.
    assert fill([[0, 0, 3, 0, 3, 2.55, 0, 2.55]], (4, 5)).sum() == 9


@pytest.mark.parametrize("rule", ["centre", "coco"])
def test_neighbours_share_no_pixel_and_leave_none_out(rule: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        apex = rng.uniform(2, 18, 2)
        corners = np.array([[0, 0], [20, 0], [20, 16], [0, 16]])
        parts = [fill([np.array([apex, corners[i], corners[(i + 1) % 4]])], (16, 20), rule) for i in range(4)]
        assert (np.sum(parts, axis=0) == 1).all()


def test_pycocotools_fills_the_same_pixels() -> None:
    oracle = pytest.importorskip("pycocotools.mask", reason="pycocotools is the oracle: pip install pycocotools")
    rng = np.random.default_rng(1)
    for turn in range(400):
        height, width = (int(side) for side in rng.integers(5, 80, 2))
        points = rng.uniform(-10, 90, (int(rng.integers(3, 12)), 2))
        points = np.round(points * (turn % 4)) / max(1, turn % 4) if turn % 4 else points
        polygons = [points.ravel().tolist(), (points[::-1] / 2).ravel().tolist()]
        theirs = oracle.merge(oracle.frPyObjects(polygons, height, width))
        ours = polygon_spans(polygons, (height, width), rule="coco")
        assert (spans_of_counts(counts_of_text(theirs["counts"].decode()), (height, width)) == ours).all()


def test_outlines_give_the_mask_back() -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((60, 12, 15)) < rng.uniform(0.2, 0.9, (60, 1, 1))
    masks[0], masks[1] = False, True
    runs = Runs.from_masks(masks)
    for index, mask in enumerate(masks):
        parts = [fill([points], (12, 15)) for points in outline_polygons(runs, index)]
        assert ((np.sum(parts, axis=0) if parts else 0) % 2 == mask).all()


def test_an_outline_lists_corners_only() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 1:6] = True
    outer = outline_polygons(Runs.from_masks([mask]), 0)
    assert len(outer) == 1 and sorted(outer[0].tolist()) == [[1, 2], [1, 7], [6, 2], [6, 7]]
    mask[4, 3] = False
    assert len(outline_polygons(Runs.from_masks([mask]), 0)) == 2


def test_errors() -> None:
    with pytest.raises(InputError, match="something else than pairs of numbers"):
        polygon_spans([[1, 2, 3]], (4, 4))
    with pytest.raises(InputError, match="something else than pairs of numbers"):
        polygon_spans([[1, 2, "x", 4]], (4, 4))
    with pytest.raises(InputError, match="not finite"):
        polygon_spans([[1, 2, np.nan, 4]], (4, 4))
    with pytest.raises(InputError, match="rule 'exact': choose centre or coco"):
        polygon_spans([[1, 2, 3, 4]], (4, 4), rule="exact")
    assert polygon_spans([[1, 2], [3, 3, 5, 5]], (4, 4)).shape == (0, 2)
    huge = polygon_spans([[-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]], (4, 4), rule="coco")
    assert huge.tolist() == [[0, 16]]
