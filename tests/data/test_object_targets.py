"""Targets of objects: heights and contacts worked out by hand, crowds, overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.data.object_targets import (
    UNKNOWN,
    border_distances,
    object_contacts,
    object_heights,
    object_targets,
)
from perpixel.labels import Grouping, group_objects

NOBODY = np.zeros(0, np.int64)


def test_border_distances_by_hand() -> None:
    instance_map = np.zeros((7, 9), np.int32)
    instance_map[1:6, 1:6], instance_map[1:6, 6:8] = 1, 2
    distance = border_distances(instance_map)
    assert distance[3, 1:8].tolist() == [0.5, 1.5, 2.5, 1.5, 0.5, 0.5, 0.5]
    assert distance[1, 1] == 0.5 and distance[2, 2] == 1.5


def test_the_frame_is_no_border() -> None:
    instance_map = np.zeros((3, 6), np.int32)
    instance_map[:, :4] = 1
    assert border_distances(instance_map)[1].tolist()[:4] == [3.5, 2.5, 1.5, 0.5]
    assert (object_heights(np.ones((4, 5), np.int32)) > 0).all()


def test_heights_by_hand() -> None:
    instance_map = np.zeros((3, 7), np.int32)
    instance_map[1, 1:6] = 4  # five pixels in a row, all 0.5 from the border
    height = object_heights(instance_map)
    # d / (d + c) with c = 2, 1, 0, 1, 2.
    assert height[1, 1:6] == pytest.approx([0.2, 1 / 3, 1, 1 / 3, 0.2])
    assert height.dtype == np.float32 and height[0].max() == 0


def test_large_and_small_have_one_height_and_one_top() -> None:
    rows, cols = np.mgrid[:60, :120]
    instance_map = np.zeros((60, 120), np.int32)
    instance_map[np.hypot((rows - 30) / 20, (cols - 40) / 38) < 1] = 1
    instance_map[np.hypot(rows - 20, cols - 100) < 4] = 2
    # A dumbbell: its border distance has two tops.
    instance_map[(np.hypot(rows - 50, cols - 90) < 6) | (np.hypot(rows - 50, cols - 106) < 6)] = 3
    instance_map[48:53, 90:106] = 3
    height = object_heights(instance_map)
    assert [height[instance_map == number].max() for number in (1, 2, 3)] == [1, 1, 1]
    probs = np.stack([instance_map == 0, instance_map > 0]).astype(np.float32)
    assert len(group_objects(probs, height, np.zeros_like(height), Grouping())) == 3
    by_border = border_distances(instance_map) * (instance_map == 3)
    assert len(group_objects(probs, by_border / by_border.max(), np.zeros_like(height), Grouping(least_peak=0.5))) == 2


def test_contacts_by_hand() -> None:
    instance_map = np.array([[1, 1, 0, 0, 2, 0, 3, 3, 4]], np.int32)
    assert object_contacts(instance_map)[0].astype(int).tolist() == [0, 0, 0, 0, 0, 1, 0, 1, 1]
    assert object_contacts(instance_map, reach=2)[0].astype(int).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert not object_contacts(np.zeros((2, 3), np.int32)).any()


def test_smaller_objects_lie_on_top_and_crowds_are_unknown() -> None:
    layers = np.zeros((2, 4, 8), np.int32)
    layers[0, :, :6] = 2
    layers[1, 1:3, 1:3] = 1
    layers[1, :, 5:] = 3
    targets = object_targets(layers, np.array([2, 1, 0]), np.array([False, False, True]))
    assert targets.label_map[1].tolist() == [1, 2, 2, 1, 1, 1, UNKNOWN, UNKNOWN]
    assert targets.label_map.dtype == np.int64
    assert (targets.height[:, 6:] == 0).all() and (targets.height[:, :6] > 0).all()
    assert targets.contact[1].tolist()[:4] == [True, True, True, True] and not targets.contact[:, 5:].any()


def test_a_crop_without_objects() -> None:
    targets = object_targets(np.zeros((1, 4, 5), np.int32), NOBODY, np.zeros(0, bool))
    assert not targets.label_map.any() and not targets.height.any() and not targets.contact.any()


def test_targets_come_back_as_the_objects() -> None:
    """Two squares and a disc that touch are told apart by the maps that are learnt."""
    instance_map = np.zeros((40, 60), np.int32)
    instance_map[5:25, 5:20], instance_map[5:25, 20:35] = 1, 2
    rows, cols = np.mgrid[:40, :60]
    instance_map[(np.hypot(rows - 28, cols - 42) < 9) & (instance_map == 0)] = 3
    targets = object_targets(instance_map[None], np.array([1, 2, 1]), np.zeros(3, bool))
    probs = np.stack([targets.label_map == kind for kind in range(3)]).astype(np.float32)
    found = group_objects(probs, targets.height, targets.contact.astype(np.float32), Grouping())
    assert sorted(zip(found.classes.tolist(), found.masks.areas.tolist())) == sorted(
        (kind, int((instance_map == number).sum())) for number, kind in ((1, 1), (2, 2), (3, 1))
    )
