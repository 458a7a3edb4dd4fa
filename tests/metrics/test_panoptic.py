"""Panoptic quality, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import Instances, Runs
from perpixel.metrics import PANOPTIC_DEFINITIONS, panoptic_counts, panoptic_quality
from perpixel.metrics.object_overlaps import SHARE_UNIT


def strips(widths: list[int], classes: list[int], height: int = 2, **more: object) -> Instances:
    """Objects side by side; class -1 leaves a gap."""
    numbers = [0 if kind < 0 else index for index, kind in enumerate(classes, 1)]
    label_map = np.repeat(numbers, widths)[None].repeat(height, 0)
    kept = [kind for kind in classes if kind >= 0]
    return Instances.of(Instances.from_label_map(label_map).masks, kept, **more)  # type: ignore[arg-type]


def test_by_hand() -> None:
    target = strips([10, 10, 10, 10], [1, 1, 2, 3])
    pred = strips([10, 8, 2, 5, 5, 10], [1, 1, 1, 2, 2, -1])
    counts = panoptic_counts(pred, target, num_classes=5)
    # Class 1: two hits (IoU 1 and 0.8) and a false one; class 2: halves of IoU 0.5 are no hits; class 3: missed.
    assert counts[:, :3].tolist() == [[0, 0, 0], [2, 1, 0], [0, 2, 1], [0, 0, 1], [0, 0, 0]]
    assert counts[1, 3] * SHARE_UNIT == pytest.approx(1.8)
    quality = panoptic_quality(counts)
    assert quality.pq[1] == pytest.approx(1.8 / 2.5)
    assert quality.sq[1] == pytest.approx(0.9) and quality.rq[1] == pytest.approx(2 / 2.5)
    assert quality.pq[2] == quality.pq[3] == 0 and np.isnan(quality.pq[[0, 4]]).all() and np.isnan(quality.sq[3])
    assert quality.summary() == pytest.approx({"pq": 0.72 / 3, "sq": 0.3, "rq": 0.8 / 3})
    assert set(quality.summary()) == set(PANOPTIC_DEFINITIONS)


def test_void_does_not_count() -> None:
    target = strips([10, 10, 20], [1, 0, -1], is_crowd=[False, True])
    # 10 of its 16 pixels a row are right, 6 lie in the void: IoU 1. The second lies mostly in the void, the third not.
    pred = strips([16, 4, 20], [1, 1, 1])
    counts = panoptic_counts(pred, target, num_classes=2)
    assert counts[1, :3].tolist() == [1, 1, 0] and counts[1, 3] * SHARE_UNIT == 1
    half = strips([16, 8, 16], [1, 1, -1])
    assert panoptic_counts(half, target, num_classes=2)[1, :3].tolist() == [1, 1, 0]  # exactly half in the void


def test_crowds_excuse_their_class_only() -> None:
    target = strips([10, 10], [1, 2], is_crowd=[False, True])
    pred = strips([10, 5, 5], [1, 1, 2])
    assert panoptic_counts(pred, target, num_classes=3)[1:, :3].tolist() == [[1, 1, 0], [0, 0, 0]]


def test_void_that_lies_on_an_object_is_the_object_s() -> None:
    masks = np.zeros((2, 4, 10), bool)
    masks[0, :, :6], masks[1, :, 4:] = True, True
    target = Instances.of(Runs.from_masks(masks), [1, 0], is_crowd=[False, True])
    perfect = replace(target.without_crowds(), scores=np.ones(1))
    assert panoptic_quality(panoptic_counts(perfect, target, num_classes=2)).summary()["pq"] == 1


def test_objects_that_overlap_are_laid_over_each_other() -> None:
    masks = np.zeros((2, 4, 10), bool)
    masks[0], masks[1, :, :4] = True, True
    pred = Instances.of(Runs.from_masks(masks), 1, scores=[0.9, 0.5])
    counts = panoptic_counts(pred, strips([10], [1], height=4), num_classes=2)
    assert counts[1, :3].tolist() == [1, 0, 0]  # the weaker one is wholly covered
    low = replace(pred, scores=np.array([0.5, 0.9]))
    assert panoptic_counts(low, strips([4, 6], [1, 1], height=4), num_classes=2)[1, :3].tolist() == [2, 0, 0]


def test_nothing_and_errors() -> None:
    none = Instances.none((4, 10))
    assert all(
        np.isnan(value) for value in panoptic_quality(panoptic_counts(none, none, num_classes=2)).summary().values()
    )
    some = strips([10], [1], height=4)
    assert panoptic_counts(none, some, num_classes=2)[1].tolist() == [0, 0, 1, 0]
    assert panoptic_quality(panoptic_counts(some, none, num_classes=2)).summary()["pq"] == 0
    with pytest.raises(InputError, match=r"pred holds class 1, outside 0\.\.0"):
        panoptic_counts(some, none, num_classes=1)
    with pytest.raises(InputError, match="differ in size"):
        panoptic_counts(some, Instances.none((3, 3)), num_classes=2)
