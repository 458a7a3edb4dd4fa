from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from perpixel.errors import InputError
from perpixel.metrics import CLASS_STATISTICS, DEFINITIONS, STATISTICS, compute_scores, confusion_matrix

# The worked example: 10 classes, 1000 samples of each.
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
EXAMPLE = np.array(
    [
        [923, 4, 21, 8, 4, 1, 5, 5, 23, 6],
        [5, 972, 2, 0, 0, 0, 0, 1, 5, 15],
        [26, 2, 892, 30, 13, 8, 17, 5, 4, 3],
        [12, 4, 32, 826, 24, 48, 30, 12, 5, 7],
        [5, 1, 28, 24, 898, 13, 14, 14, 2, 1],
        [7, 2, 28, 111, 18, 801, 13, 17, 0, 3],
        [5, 0, 16, 27, 3, 4, 943, 1, 1, 0],
        [9, 1, 14, 13, 22, 17, 3, 915, 2, 4],
        [37, 10, 4, 4, 0, 1, 2, 1, 931, 10],
        [20, 39, 3, 3, 0, 0, 2, 1, 9, 923],
    ]
)


def test_the_worked_example() -> None:
    assert (EXAMPLE.sum(1) == 1000).all()
    dog = NAMES.index("dog")
    assert EXAMPLE[:, dog].sum() == 893
    scores = compute_scores(EXAMPLE)
    assert scores.iou[dog] == pytest.approx(801 / (1000 + 893 - 801))
    assert round(scores.iou[dog], 4) == 0.7335
    assert scores.accuracy[dog] == pytest.approx(0.801)
    assert scores.precision[dog] == pytest.approx(801 / 893)
    assert scores.pixel_accuracy == pytest.approx(0.9024)
    # all classes are equally frequent here
    assert scores.mean_accuracy == pytest.approx(scores.pixel_accuracy)
    assert scores.frequency_weighted_iou == pytest.approx(scores.miou)


def test_by_hand() -> None:
    scores = compute_scores([[6, 2], [1, 1]])
    assert scores.iou.tolist() == pytest.approx([6 / 9, 1 / 4])
    assert scores.dice.tolist() == pytest.approx([12 / 15, 2 / 5])
    assert scores.accuracy.tolist() == pytest.approx([6 / 8, 1 / 2])
    assert scores.precision.tolist() == pytest.approx([6 / 7, 1 / 3])
    assert scores.miou == pytest.approx((6 / 9 + 1 / 4) / 2)
    assert scores.mean_dice == pytest.approx((12 / 15 + 2 / 5) / 2)
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert scores.frequency_weighted_iou == pytest.approx((8 * 6 / 9 + 2 / 4) / 10)


def test_it_agrees_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, 400)
    pred = np.where(rng.random(400) < 0.6, target, rng.integers(0, 5, 400))
    scores = compute_scores(confusion_matrix(pred, target, num_classes=5))
    np.testing.assert_allclose(scores.iou, sklearn_metrics.jaccard_score(target, pred, average=None))
    np.testing.assert_allclose(scores.dice, sklearn_metrics.f1_score(target, pred, average=None))
    np.testing.assert_allclose(scores.accuracy, sklearn_metrics.recall_score(target, pred, average=None))
    np.testing.assert_allclose(scores.precision, sklearn_metrics.precision_score(target, pred, average=None))
    assert scores.pixel_accuracy == pytest.approx(sklearn_metrics.accuracy_score(target, pred))
    assert scores.mean_accuracy == pytest.approx(sklearn_metrics.balanced_accuracy_score(target, pred))


def test_an_absent_class_leaves_the_means_and_a_false_one_counts_zero() -> None:
    # class 2 occurs nowhere; class 3 is predicted but never true; class 1 is true but never predicted
    scores = compute_scores([[4, 0, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert np.isnan([scores.iou[2], scores.dice[2], scores.accuracy[2], scores.precision[2]]).all()
    assert scores.iou[3] == scores.dice[3] == scores.precision[3] == 0
    assert np.isnan(scores.accuracy[3])
    assert scores.precision[1] == 0
    assert scores.miou == pytest.approx((4 / 7 + 0 + 0) / 3)
    assert scores.mean_accuracy == pytest.approx((4 / 5 + 0) / 2)


def test_what_an_absent_class_counts_can_be_said() -> None:
    matrix = [[4, 0, 1], [2, 2, 0], [0, 0, 0]]  # class 2 is predicted
    four = np.pad(matrix, (0, 1))  # class 3 is nowhere
    assert compute_scores(four).miou == compute_scores(matrix).miou
    for empty in (0, 1):
        scores = compute_scores(four, empty=empty)
        assert scores.iou[3] == scores.dice[3] == empty and scores.iou[2] == 0
        assert scores.miou == pytest.approx((3 * compute_scores(matrix).miou + empty) / 4)
        assert scores.mean_dice == pytest.approx((3 * compute_scores(matrix).mean_dice + empty) / 4)
        assert scores.mean_accuracy == compute_scores(matrix).mean_accuracy
    with pytest.raises(InputError, match=r"empty is 0\.5: give NaN, 0 or 1"):
        compute_scores(four, empty=0.5)


def test_nothing_labelled_gives_nothing() -> None:
    scores = compute_scores(np.zeros((3, 3), int))
    assert all(np.isnan(getattr(scores, name)) for name in STATISTICS)
    assert scores.to_json(["a", "b", "c"])["scores"]["miou"] is None


def test_a_perfect_answer_scores_one() -> None:
    scores = compute_scores(np.diag([5, 1, 9]))
    assert [getattr(scores, name) for name in STATISTICS] == [1] * len(STATISTICS)


def test_renaming_the_classes_renames_the_scores() -> None:
    order = np.random.default_rng(0).permutation(10)
    renamed, scores = compute_scores(EXAMPLE[np.ix_(order, order)]), compute_scores(EXAMPLE)
    np.testing.assert_allclose(renamed.iou, scores.iou[order])
    assert renamed.miou == pytest.approx(scores.miou)


def test_many_matrices_at_once_are_each_by_itself() -> None:
    matrices = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    for name, statistic in {**STATISTICS, **CLASS_STATISTICS}.items():
        expected = getattr(compute_scores(matrices[1, 2]), name)
        np.testing.assert_allclose(statistic(matrices)[1, 2], expected)


def test_json_is_plain_and_every_score_is_defined() -> None:
    table = compute_scores([[6, 2, 0], [1, 1, 0], [0, 0, 0]]).to_json(["sky", "road", "void"])
    json.dumps(table, allow_nan=False)
    assert table["confusion"] == [[6, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert table["per_class"][0] == {
        "name": "sky",
        "iou": pytest.approx(6 / 9),
        "dice": pytest.approx(12 / 15),
        "accuracy": pytest.approx(6 / 8),
        "precision": pytest.approx(6 / 7),
        "pixels": 8,
    }
    assert table["per_class"][2]["iou"] is None
    assert set(DEFINITIONS) == set(STATISTICS) | set(CLASS_STATISTICS)


def test_errors() -> None:
    with pytest.raises(InputError, match=r"confusion matrix of shape \(2, 3\): give \(K, K\)"):
        compute_scores(np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"confusion matrix of shape \(4, 2, 2\): .* sum several"):
        compute_scores(np.zeros((4, 2, 2)))
    with pytest.raises(InputError, match="1 class names for 2 classes"):
        compute_scores(np.eye(2)).to_json(["a"])
