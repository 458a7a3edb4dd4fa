from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.metrics import per_group_table, per_image_table


def test_rows() -> None:
    rows = per_image_table(["a", "b"], [[[6, 2], [1, 1]], [[3, 0], [0, 0]]], ["sky", "road"])
    assert rows[0] == {
        "name": "a",
        "pixels": 10,
        "miou": pytest.approx((6 / 9 + 1 / 4) / 2),
        "mean_dice": pytest.approx((12 / 15 + 2 / 5) / 2),
        "pixel_accuracy": pytest.approx(0.7),
        "iou sky": pytest.approx(6 / 9),
        "iou road": pytest.approx(1 / 4),
    }
    assert rows[1]["miou"] == 1
    assert rows[1]["iou road"] is None


def test_an_image_without_labels_and_a_table_without_images() -> None:
    (row,) = per_image_table(["a"], np.zeros((1, 2, 2), int), ["sky", "road"])
    assert row["pixels"] == 0
    assert row["miou"] is None and row["pixel_accuracy"] is None
    assert per_image_table([], np.zeros((0, 2, 2), int), ["sky", "road"]) == []


def test_errors() -> None:
    with pytest.raises(InputError, match=r"matrices of shape \(1, 2, 2\) for 2 images and 2 classes"):
        per_image_table(["a", "b"], np.zeros((1, 2, 2), int), ["sky", "road"])


def test_groups_count_pixels_over_their_images() -> None:
    matrices = np.array([[[6, 2], [1, 1]], [[3, 0], [0, 0]], [[0, 0], [0, 5]]])
    rows = per_group_table(["x", "y", "x"], matrices, ["sky", "road"])
    assert [(row["name"], row["images"], row["pixels"]) for row in rows] == [("x", 2, 15), ("y", 1, 3)]
    assert list(rows[0])[:2] == ["name", "images"]
    assert rows[0]["miou"] == per_image_table(["x"], matrices[[0, 2]].sum(0)[None], ["sky", "road"])[0]["miou"]
    assert per_group_table([], np.zeros((0, 2, 2), int), ["sky", "road"]) == []
    with pytest.raises(InputError, match="1 groups for 3 matrices"):
        per_group_table(["x"], matrices, ["sky", "road"])
