"""Objects matched one to one: values worked by hand, a slow form of the formulas, and images in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import Instances, Runs
from perpixel.metrics import INSTANCE_DEFINITIONS, InstanceCounts, instance_counts, instance_scores, object_bands
from perpixel.metrics.instances import THRESHOLDS
from perpixel.metrics.object_overlaps import SHARE_UNIT, best_pairs


def strips(*widths: int, height: int = 4) -> np.ndarray:
    """Objects 1, 2, ... side by side; a negative width is background."""
    numbers = np.repeat([0 if width < 0 else index for index, width in enumerate(widths, 1)], np.abs(widths))
    return numbers[None].repeat(height, 0)


def at(counts: InstanceCounts, threshold: float) -> list[int]:
    """Predicted, matched, true."""
    return counts.matches[1, THRESHOLDS.index(threshold), :3].tolist()


def test_by_hand() -> None:
    target = strips(10, 10, -10, 10)
    pred = strips(10, 6, -14, 5, 5)  # perfect; 6 of 10; one cut into two halves
    counts = instance_counts(pred, target)
    assert at(counts, 0.5) == [4, 3, 3]  # of the two halves, each of IoU 0.5, one is matched
    assert at(counts, 0.6) == [4, 2, 3] and at(counts, 0.65) == [4, 1, 3]
    scores = instance_scores(counts)
    assert scores.overall["precision"][0] == 3 / 4 and scores.overall["recall"][0] == 1
    assert scores.overall["f1"][0] == pytest.approx(6 / 7)
    assert scores.overall["average_precision"][:4] == pytest.approx([3 / 4, 2 / 5, 2 / 5, 1 / 6])
    assert scores.overall["matched_iou"][0] == pytest.approx((1 + 0.6 + 0.5) / 3)
    # AJI: shared 40 + 24 + 20, unions 40 + 40 + 40, and the half that is left over, 20.
    assert counts.jaccard[1].tolist() == [84, 140, 84, 140]
    assert scores.summary()["aji"] == pytest.approx(84 / 140)
    assert scores.summary()["mean_ap"] == pytest.approx(np.mean([3 / 4, 2 / 5, 2 / 5] + [1 / 6] * 7))
    assert set(INSTANCE_DEFINITIONS) == set(scores.overall)


def test_aji_may_use_a_prediction_twice_and_aji_plus_not() -> None:
    joined = instance_counts(strips(20), strips(10, 10), boundary=False)
    assert joined.jaccard[1].tolist() == [80, 160, 40, 80 + 40]


def test_low_thresholds_find_the_most_pairs() -> None:
    # Pixels 1: only a-A. 2: a-B (larger). 3: b-B. The largest IoU alone would leave b and A without a partner.
    rows, cols, ratios = np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0.2, 0.45, 0.21])
    assert best_pairs(rows, cols, ratios).tolist() == [0, 2]
    assert best_pairs(rows[:2], cols[:2], ratios[:2]).tolist() == [1]
    assert best_pairs(rows[:0], cols[:0], ratios[:0]).tolist() == []
    counts = instance_counts(strips(4, 6), strips(10), thresholds=[0.3, 0.5], boundary=False)
    assert counts.matches[1, :, 1].tolist() == [1, 1] and counts.matched[1, 0] * SHARE_UNIT == pytest.approx(0.6)


def test_it_agrees_with_a_slow_form() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        grid = np.kron(rng.integers(0, 9, (6, 6)), np.ones((5, 5), int))
        pred = np.where(rng.random(grid.shape) < 0.15 * seed, rng.integers(0, 9, grid.shape), grid)
        counts = instance_counts(pred, grid, boundary=False)
        numbers = [number for number in np.unique(grid) if number]
        others = [number for number in np.unique(pred) if number]
        table = np.array(
            [[np.sum((pred == p) & (grid == t)) / np.sum((pred == p) | (grid == t)) for t in numbers] for p in others]
        )
        for place, level in enumerate(THRESHOLDS):
            hits = table >= level
            assert (hits.sum(axis=0) <= 1).all()
            assert counts.matches[1, place].tolist() == [len(others), hits.sum(), len(numbers), hits.sum()]
            assert counts.matched[1, place] * SHARE_UNIT == pytest.approx(table[hits].sum())


def test_label_maps_and_instances_agree() -> None:
    rng = np.random.default_rng(1)
    target = np.kron(rng.integers(0, 30, (8, 8)), np.ones((6, 6), int))
    pred = np.roll(target, (1, 2), (0, 1))
    maps = instance_counts(pred, target, boundary=False)
    objects = instance_counts(Instances.from_label_map(pred), Instances.from_label_map(target), boundary=False)
    for name in ("matches", "matched", "jaccard", "bands"):
        assert (getattr(maps, name) == getattr(objects, name)).all()
    assert (instance_counts(pred, target).matches == maps.matches).all()


def test_classes_are_apart() -> None:
    target = replace(Instances.from_label_map(strips(10, 10)), classes=np.array([1, 2]))
    pred = replace(target, classes=np.array([1, 1]))
    scores = instance_scores(instance_counts(pred, target, num_classes=4))
    assert scores.f1[1, 0] == pytest.approx(2 / 3) and scores.f1[2, 0] == 0 and np.isnan(scores.f1[3, 0])
    assert scores.overall["f1"][0] == 0.5 and np.isnan(scores.f1[0, 0])


def test_crowds_excuse_what_lies_in_them() -> None:
    target = Instances.from_label_map(strips(10, 10))
    pred = Instances.from_label_map(strips(10, 4, 3, 3))
    assert at(instance_counts(pred, target), 0.5) == [4, 1, 2]
    crowd = replace(target, is_crowd=np.array([False, True]))
    assert at(instance_counts(pred, crowd), 0.5) == [1, 1, 1]
    void = replace(crowd, classes=np.array([1, 0]))
    assert at(instance_counts(pred, void), 0.5) == [1, 1, 1]
    other = replace(crowd, classes=np.array([1, 2]))
    assert instance_counts(pred, other, num_classes=3).matches[1, 0].tolist() == [4, 1, 1, 1]
    # The pixels of excused ones are not held against the Jaccard index either.
    assert instance_scores(instance_counts(pred, crowd)).summary()["aji"] == 1


def test_empty_truth_and_empty_prediction() -> None:
    some, none = strips(4, 4), np.zeros((4, 8), int)
    missed, invented, nothing = (
        instance_scores(instance_counts(*pair)).summary() for pair in ((none, some), (some, none), (none, none))
    )
    assert missed["recall_50"] == missed["f1_50"] == missed["ap_50"] == missed["aji"] == 0
    assert np.isnan(missed["precision_50"]) and np.isnan(invented["recall_50"])
    assert invented["precision_50"] == invented["f1_50"] == invented["ap_50"] == invented["aji"] == 0
    assert all(np.isnan(value) for value in nothing.values())
    assert np.isnan(missed["boundary_iou"])


def test_bands_of_objects() -> None:
    masks = np.zeros((2, 60, 80), bool)  # the diagonal is 100: bands of 2
    masks[0, 10:30, 10:40] = True
    masks[1, 0:20, 0:3] = True
    bands = object_bands(Runs.from_masks(masks))
    assert bands.areas.tolist() == [20 * 30 - 16 * 26, 60]
    at_frame = np.ones((1, 60, 80), bool)
    assert object_bands(Runs.from_masks(at_frame)).areas[0] == 60 * 80 - 56 * 76  # the frame erodes
    assert object_bands(Runs.from_masks(masks), 1).areas.tolist() == [600 - 18 * 28, 60 - 18]
    shifted = np.roll(masks, 1, axis=2)
    shifted[1] = masks[1]
    counts = instance_counts(Instances.of(Runs.from_masks(shifted)), Instances.of(Runs.from_masks(masks)))
    first = (
        shifted[0] & ~np.pad(shifted[0, 12:28, 13:39], ((12, 32), (13, 41))),
        masks[0] & ~np.pad(masks[0, 12:28, 12:38], ((12, 32), (12, 42))),
    )
    wanted = (first[0] & first[1]).sum() / (first[0] | first[1]).sum()
    assert counts.bands[1, 0] == 2
    assert counts.bands[1, 1] * SHARE_UNIT == pytest.approx(1 + wanted)


def test_images_in_any_order_give_the_same_sums() -> None:
    rng = np.random.default_rng(2)
    parts = [instance_counts(*np.kron(rng.integers(0, 6, (2, 4, 4)), np.ones((1, 4, 4), int))) for _ in range(5)]
    whole = InstanceCounts.join(parts)
    nested = (parts[4] + parts[2]) + InstanceCounts.join([parts[0], parts[3]]) + parts[1]
    for name in ("matches", "matched", "jaccard", "bands"):
        assert (getattr(whole, name) == getattr(nested, name)).all()


def test_errors() -> None:
    some = strips(4, 4)
    objects = Instances.from_label_map(some)
    with pytest.raises(InputError, match="two Instances or two instance maps"):
        instance_counts(objects, some)
    with pytest.raises(InputError, match=r"thresholds \[0\]: give IoU above 0 and up to 1"):
        instance_counts(some, some, thresholds=[0])
    with pytest.raises(InputError, match=r"target holds class 2, outside 0\.\.1"):
        instance_counts(objects, replace(objects, classes=np.array([1, 2])))
    with pytest.raises(InputError, match="differ in size"):
        instance_counts(objects, Instances.none((3, 3)))
    with pytest.raises(InputError, match="other thresholds"):
        instance_counts(some, some) + instance_counts(some, some, thresholds=[0.5])
    with pytest.raises(InputError, match="no image was measured"):
        InstanceCounts.join([])
