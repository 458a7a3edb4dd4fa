"""Scores of objects: values worked by hand, scikit-learn's mutual information, and counts in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score, v_measure_score
from sklearn.metrics.cluster import pair_confusion_matrix

from perpixel.errors import InputError
from perpixel.metrics import ObjectCounts, best_threshold, connected_objects, object_counts, thin_borders


def strips(*widths: int, height: int = 4) -> np.ndarray:
    """Objects 1, 2, ... side by side, each `height` x its width."""
    return np.repeat(np.arange(1, len(widths) + 1), widths)[None].repeat(height, 0)


def test_by_hand() -> None:
    # Two objects of 8 pixels; the prediction cuts the second into halves of 4.
    counts = object_counts(strips(2, 1, 1), strips(2, 2))
    assert counts.shared.tolist() == [4, 4, 8]
    rand, info = counts.rand(), counts.info()
    assert rand.merge == 1  # nothing was joined
    assert rand.split == pytest.approx((16 + 16 + 64) / (64 + 64))
    assert rand.score == pytest.approx(2 * 96 / (96 + 128))
    assert info.merge == pytest.approx(1)
    assert info.split == pytest.approx(math.log(2) / (1.5 * math.log(2)))
    assert info.score == pytest.approx(2 / 2.5)
    # The other way round is a merge.
    other = object_counts(strips(2, 2), strips(2, 1, 1))
    assert (other.rand().split, other.rand().merge) == (1, rand.split)
    assert (other.info().split, other.info().merge) == pytest.approx((1, info.split))


def test_it_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    pred, target = rng.integers(1, 6, 600), rng.integers(1, 9, 600)
    pred = np.where(rng.random(600) < 0.6, target, pred)
    counts = object_counts(pred.reshape(20, 30), target.reshape(20, 30))
    assert counts.info().score == pytest.approx(v_measure_score(target, pred))
    entropy_s = mutual_info_score(pred, pred)
    assert counts.info().split == pytest.approx(mutual_info_score(pred, target) / entropy_s)
    # scikit-learn counts ordered pairs of different pixels, we count a pixel with itself as well
    (_, joined), (cut, together) = pair_confusion_matrix(target, pred)
    assert counts.rand().split == pytest.approx((together + 600) / (together + cut + 600))
    assert counts.rand().merge == pytest.approx((together + 600) / (together + joined + 600))


def test_only_true_objects_count_and_predicted_border_is_dust() -> None:
    target = strips(2, 2)
    target[0] = 0
    pred = strips(2, 2)
    pred[0] = [9, 8, 7, 6]  # outside of the true objects: no matter
    assert object_counts(pred, target).rand().score == 1
    pred[1, 0] = pred[1, 3] = 0
    counts = object_counts(pred, target)
    assert counts.shared.tolist() == counts.pred.tolist() == [1, 1, 5, 5]
    assert counts.target.tolist() == [6, 6]


def test_a_gap_in_a_membrane_costs_much() -> None:
    mask = np.ones((9, 21), bool)
    mask[:, 10] = False
    broken = mask.copy()
    broken[4, 10] = True
    truth = connected_objects(mask)
    assert object_counts(connected_objects(mask), truth).rand().score == 1
    assert object_counts(connected_objects(broken), truth).rand().merge == pytest.approx(0.5)


def test_a_diagonal_membrane_keeps_objects_apart() -> None:
    assert connected_objects(~np.eye(6, dtype=bool)).max() == 2


def test_thin_borders_grow_to_one_pixel() -> None:
    ids = np.zeros((3, 11), int)
    ids[:, :3], ids[:, 8:] = 1, 2
    thin = thin_borders(ids)
    assert thin[1].tolist() == [1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2] or thin[1].tolist() == [1] * 6 + [0] + [2] * 4
    assert (thin_borders(thin) == thin).all()
    assert (thin[ids > 0] == ids[ids > 0]).all()
    assert thin_borders(np.zeros((3, 3), int)).sum() == 0
    touching = strips(2, 2)
    assert (thin_borders(touching) == touching).all()
    volume = np.zeros((5, 5, 5), int)
    volume[0], volume[-1] = 1, 2
    assert (thin_borders(volume) == 0).sum() == 25


def test_sections_in_any_order_give_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    parts = [object_counts(*rng.integers(0, 5, (2, 12, 12))) for _ in range(6)]
    whole = ObjectCounts.join(parts)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(6)
        nested = ObjectCounts.join([ObjectCounts.join([parts[i] for i in order[:2]]), *[parts[i] for i in order[2:]]])
        assert nested.rand() == whole.rand() and nested.info() == whole.info()


def test_one_object_and_none() -> None:
    alike = object_counts(np.ones((3, 3), int), np.ones((3, 3), int))
    assert alike.info().score == alike.info().split == alike.rand().score == 1
    nothing = object_counts(np.ones((3, 3), int), np.zeros((3, 3), int))
    assert math.isnan(nothing.rand().score) and math.isnan(nothing.info().score)
    assert math.isnan(ObjectCounts.join([]).rand().score)
    # Cut to dust: nothing is joined, every pair is cut.
    dust = object_counts(np.zeros((4, 4), int), np.ones((4, 4), int))
    assert dust.rand().merge == 1 and dust.rand().split == pytest.approx(1 / 16)


def test_the_best_threshold() -> None:
    truth = np.ones((2, 9, 21), bool)
    truth[:, :, 10] = False
    chance = np.where(truth, 0.95, 0.35)
    chance[:, 4, 10] = 0.65  # below 0.65 the cells run together
    level, counts = best_threshold(chance, truth)
    assert level == 0.7 and counts.rand().score == 1
    assert best_threshold(chance, truth, thresholds=[0.5])[1].rand().merge == pytest.approx(0.5)
    alone = best_threshold(chance[0], connected_objects(truth[0]))
    assert alone[1].rand().score == 1


def test_errors() -> None:
    with pytest.raises(InputError, match=r"pred \(2, 2\) and target \(2, 3\) differ in shape"):
        object_counts(np.ones((2, 2), int), np.ones((2, 3), int))
    with pytest.raises(InputError, match="mask is int64: give bool"):
        connected_objects(np.ones((2, 2), int))
    with pytest.raises(InputError, match=r"probability \(4,\) and target \(4,\)"):
        best_threshold(np.ones(4), np.ones(4, bool))
    with pytest.raises(InputError, match="thresholds is empty"):
        best_threshold(np.ones((4, 4)), np.ones((4, 4), bool), thresholds=[])
