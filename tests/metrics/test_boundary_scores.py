"""Boundary scores of a set: means by hand, missing classes, and the same bits from images in any order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.metrics import BOUNDARY_DEFINITIONS, boundary_intervals, boundary_row, boundary_scores
from perpixel.metrics.boundary_scores import CLASS_KEYS, MEAN_KEYS, BoundaryRow

NAMES = ["ground", "box", "rare"]


def image(left: int, label: int = 1) -> np.ndarray:
    """A square of 10 x 10 on ground, 30 x 40: its diagonal is 50."""
    label_map = np.zeros((30, 40), np.uint8)
    label_map[10:20, left : left + 10] = label
    return label_map


def rows(seed: int, count: int) -> list[BoundaryRow]:
    rng = np.random.default_rng(seed)
    maps = np.kron(rng.integers(0, 3, (count, 2, 4, 5)), np.ones((5, 5), np.uint8))
    return [boundary_row(pred, target, num_classes=3) for pred, target in maps]


def test_by_hand() -> None:
    # The tolerance is 0.375 pixels: only exact hits count. Moved by one column, 18 of 36 contour pixels are met.
    found = boundary_scores(
        [boundary_row(image(11), image(10), num_classes=3), boundary_row(image(10), image(10), num_classes=3)], NAMES
    )
    ground, box, rare = found["per_class"]
    assert box["bf"] == pytest.approx((0.5 + 1) / 2)
    assert box["boundary_iou"] == pytest.approx((18 + 36) / (72 - 18 + 36))
    assert box["hd95"] == pytest.approx((1 + 0) / 2)
    assert box["asd"] == pytest.approx((18 / 36 + 0) / 2)
    assert box["nsd"] == pytest.approx((0.5 + 1) / 2)
    assert box["one_sided_images"] == ground["one_sided_images"] == 0
    assert all(rare[key] is None for key in CLASS_KEYS)
    for key, name in (("bf_score", "bf"), ("boundary_miou", "boundary_iou"), ("mean_hd95", "hd95")):
        assert found["scores"][key] == pytest.approx((ground[name] + box[name]) / 2)


def test_a_wider_tolerance() -> None:
    row = boundary_row(image(11), image(10), num_classes=3, tolerance=1)
    assert row.bf_score == 1 and row.hd95 < 1.01
    assert boundary_scores([row], NAMES)["scores"]["mean_nsd"] == 1


def test_what_only_one_map_has() -> None:
    missed = boundary_row(image(10, 0), image(10), num_classes=3)
    found = boundary_scores([missed], NAMES)["per_class"][1]
    assert (found["bf"], found["boundary_iou"], found["nsd"], found["hd95"], found["asd"]) == (0, 0, 0, 50, 50)
    assert found["one_sided_images"] == 1
    invented = boundary_scores([boundary_row(image(10), image(10, 0), num_classes=3)], NAMES)["per_class"][1]
    assert invented["bf"] is None, "not in the truth: not in the mean over images"
    assert (invented["boundary_iou"], invented["hd95"], invented["nsd"]) == (0, 50, 0)


def test_a_class_that_fills_the_image_has_no_contour_to_meet() -> None:
    full = np.ones((30, 40), np.uint8)
    assert boundary_scores([boundary_row(full, full, num_classes=3)], NAMES)["per_class"][1]["bf"] is None
    assert (
        boundary_scores([boundary_row(image(10, 0) + image(10), full, num_classes=3)], NAMES)["per_class"][1]["bf"] == 0
    )


def test_images_in_any_order_give_the_same_bits() -> None:
    measured = rows(0, 11)
    whole = boundary_scores(measured, NAMES)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(measured))
        assert boundary_scores([measured[i] for i in order], NAMES) == whole


def test_intervals_hold_the_scores() -> None:
    measured = rows(1, 12)
    scores, intervals = boundary_scores(measured, NAMES)["scores"], boundary_intervals(measured)
    for name in ("bf_score", "boundary_miou"):
        low, high = intervals[name]
        assert low is not None and high is not None and low < scores[name] < high
    grouped = boundary_intervals(measured, groups=["a"] * 6 + ["b"] * 6)
    assert grouped != intervals


def test_everything_is_defined_and_plain() -> None:
    found = boundary_scores(rows(2, 2), NAMES)
    json.dumps(found, allow_nan=False)
    assert set(BOUNDARY_DEFINITIONS) == {*CLASS_KEYS, *MEAN_KEYS} == set(found["definitions"])
    assert set(found["scores"]) == set(MEAN_KEYS)


def test_errors() -> None:
    with pytest.raises(InputError, match="no rows"):
        boundary_scores([], NAMES)
    with pytest.raises(InputError, match="1 class names for 3 classes"):
        boundary_scores(rows(0, 1), ["a"])
