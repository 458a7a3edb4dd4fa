"""Trees as arrays: one by hand, scikit-learn's answers, and arrays that are no trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from perpixel.classical.tree_walk import PackedTrees
from perpixel.classical.trees import Trees, check_trees, from_sklearn, walk_tensors
from perpixel.errors import InputError

INF = float("inf")


def by_hand() -> Trees:
    """Two trees over features a, b and classes 0, 1, 2.

    a <= 1:  b <= -2: class 0;  b > -2: half 1, half 2        a > 1: class 2
    a leaf alone: class 1
    """
    return Trees(
        np.array([0, 1, 0, 0, 0, 0], np.int16),
        np.array([1, -2, 0, 0, 0, 0], np.float32),
        np.array([1, 3, -3, -1, -4, -2], np.int32),
        np.array([0, 5], np.int32),
        np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.5, 0.5]], np.float32),
    )


def random_data(count: int, features: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, features)).astype(np.float32)
    noisy = values[:, 0] + values[:, 1] * values[:, 2] + random.normal(size=count)
    return values, np.digitize(noisy, np.quantile(noisy, np.arange(1, classes) / classes))


def both_forms(trees: Trees, features: np.ndarray) -> np.ndarray:
    """(K, N) probabilities; the compiled walk and the torch one must agree."""
    sums = walk_tensors(trees.tensors("cpu"), torch.from_numpy(features)).numpy()
    np.testing.assert_array_equal(PackedTrees(trees).walk(features), sums)
    return trees.evaluate(features)


def test_by_hand() -> None:
    trees = by_hand()
    check_trees(trees, 2, 3, "here")
    assert trees.depth == 2
    below = np.nextafter(np.float32(1), np.float32(2))
    features = np.array([[1, 1, below, -INF, INF, 0], [-2, -1, -5, INF, 0, -0.0]], np.float32)
    wanted = [[0.5, 0.5, 0], [0, 0.75, 0.25], [0, 0.5, 0.5], [0, 0.75, 0.25], [0, 0.5, 0.5], [0, 0.75, 0.25]]
    np.testing.assert_allclose(both_forms(trees, features).T, wanted, atol=1e-7)


def test_zeros_of_both_signs_and_what_is_no_number() -> None:
    trees = by_hand()._replace(threshold=np.array([-0.0, 0, 0, 0, 0, 0], np.float32))
    features = np.array([[0.0, -0.0, np.nan, -np.nan, 1e-45], [1, -1, np.nan, -3, 1]], np.float32)
    found = both_forms(trees, features).T
    # 0 <= -0 for both zeros; NaN goes to the first child at each test; the smallest float above 0 does not.
    wanted = [[0, 0.75, 0.25], [0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]]
    np.testing.assert_allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "classes"),
    [
        ({"n_estimators": 30}, 2),
        ({"n_estimators": 7, "max_depth": 3}, 4),
        ({"n_estimators": 20, "min_samples_leaf": 5, "class_weight": "balanced"}, 12),
        ({"n_estimators": 3, "bootstrap": False}, 3),
        ({"n_estimators": 150, "max_depth": 1}, 3),
    ],
)
def test_scikit_learn_s_answers(settings: dict[str, Any], classes: int) -> None:
    values, labels = random_data(1500, 9, classes)
    forest = RandomForestClassifier(random_state=0, **settings).fit(values, labels)
    trees = from_sklearn(forest, classes)
    check_trees(trees, 9, classes, "scikit-learn")
    # More pixels than a block holds, on thresholds too: training values lie on both sides of them.
    fresh = np.concatenate([values, random_data(9000, 9, classes, seed=1)[0]])
    wanted = forest.predict_proba(fresh)
    found = both_forms(trees, np.ascontiguousarray(fresh.T)).T
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    clear = np.diff(np.sort(wanted, 1)[:, -2:], axis=1)[:, 0] > 1e-6  # no tie
    np.testing.assert_array_equal(found.argmax(1)[clear], wanted.argmax(1)[clear])
    assert clear.mean() > 0.5
    assert trees.depth == max(each.tree_.max_depth for each in forest.estimators_)


def test_a_float32_on_either_side_of_a_threshold() -> None:
    """Extra trees draw float64 thresholds anywhere: the nearest floats below and above must part as they do there."""
    values, labels = random_data(400, 3, 2)
    forest = ExtraTreesClassifier(20, random_state=0).fit(values, labels)
    edges = np.concatenate([each.tree_.threshold[each.tree_.feature >= 0] for each in forest.estimators_])
    nearest = edges.astype(np.float32)
    assert (nearest > edges).any() and (nearest < edges).any()
    around = [np.nextafter(nearest, np.float32(-INF)), nearest, np.nextafter(nearest, np.float32(INF))]
    points = np.stack([np.concatenate(each) for each in (around, around[::-1], around)], 1)
    found = from_sklearn(forest, 2).evaluate(np.ascontiguousarray(points.T))
    np.testing.assert_allclose(found.T, forest.predict_proba(points), rtol=0, atol=1e-6)


def test_classes_that_were_not_seen_have_no_probability() -> None:
    values, labels = random_data(300, 4, 2)
    forest = RandomForestClassifier(5, random_state=0).fit(values, np.array([1, 4])[labels])
    probs = from_sklearn(forest, 6).evaluate(np.ascontiguousarray(values.T))
    assert probs.shape == (6, 300)
    assert (probs[[0, 2, 3, 5]] == 0).all()
    np.testing.assert_allclose(probs.sum(0), 1, atol=1e-6)


def test_leaves_of_one_distribution_share_a_row() -> None:
    values, labels = random_data(2000, 5, 3)
    trees = from_sklearn(RandomForestClassifier(10, random_state=0).fit(values, labels), 3)
    assert trees.table.tolist() == np.eye(3).tolist()  # full trees: every leaf is pure
    assert (trees.child < 0).sum() > 1000
    assert [each.dtype for each in trees] == [np.int16, np.float32, np.int32, np.int32, np.float32]


@pytest.mark.parametrize("count", [0, 1, 4096, 4097])
def test_any_number_of_pixels(count: int) -> None:
    features = np.zeros((2, count), np.float32)
    assert both_forms(by_hand(), features).shape == (3, count)


def change(name: str, place: Any, value: float) -> Trees:
    trees = by_hand()
    array = getattr(trees, name).copy()
    array[place] = value
    return trees._replace(**{name: array})


@pytest.mark.parametrize(
    ("trees", "match"),
    [
        (change("child", 1, 0), "children are not where"),
        (change("child", 1, 1), "children are not where"),
        (change("child", 0, 4), "children are not where"),
        (change("child", 1, 1000), "children are not where"),
        (change("child", 4, 5), "children are not where"),
        (change("child", 5, 6), "children are not where"),
        (change("child", 1, -1), "children are not where"),
        (change("child", 2, -5), "points beyond the 4 distributions"),
        (change("feature", 1, 2), r"feature outside 0..1"),
        (change("feature", 1, -1), r"feature outside 0..1"),
        (change("threshold", 0, np.nan), "a threshold is not finite"),
        (change("threshold", 1, INF), "a threshold is not finite"),
        (change("table", (0, 0), 0.5), "other than probabilities"),
        (change("table", (0, 0), np.nan), "other than probabilities"),
        (change("table", 0, (2, -1, 0)), "other than probabilities"),  # type: ignore[arg-type]
        (change("roots", 1, 4), "children are not where"),
        (change("roots", 1, 6), "no ascending positions"),
        (change("roots", 1, -1), "no ascending positions"),
        (change("roots", 1, 0), "no ascending positions"),
        (change("roots", 0, 1), "no ascending positions"),
        (by_hand()._replace(roots=np.zeros(0, np.int32)), "no ascending positions"),
        (by_hand()._replace(threshold=np.zeros(5, np.float32)), "have shapes"),
        (by_hand()._replace(table=np.ones((4, 1), np.float32)), "1 classes, not of 3"),
        (by_hand()._replace(table=np.zeros((0, 3), np.float32)), "other than probabilities"),
    ],
)
def test_what_is_no_forest_is_refused(trees: Trees, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        check_trees(trees, 2, 3, "model.safetensors")
    assert str(error.value).startswith("model.safetensors: ") and "train or fetch it again" in str(error.value)


def test_random_damage_is_refused_or_harmless() -> None:
    """Whatever numbers stand in the arrays: refused, or a walk that ends and gives probabilities."""
    values, labels = random_data(200, 3, 2)
    whole = from_sklearn(RandomForestClassifier(4, random_state=0).fit(values, labels), 2)
    random, refused = np.random.default_rng(0), 0
    for _ in range(300):
        name = random.choice(["feature", "threshold", "child", "roots"])
        array = getattr(whole, name).copy()
        array[random.integers(len(array))] = random.integers(-5, len(whole.child) + 5)
        damaged = whole._replace(**{name: array})
        try:
            check_trees(damaged, 3, 2, "here")
        except InputError:
            refused += 1
            continue
        probs = damaged.evaluate(np.ascontiguousarray(values.T))
        np.testing.assert_allclose(probs.sum(0), 1, atol=1e-6)
    assert 100 < refused < 300


def test_too_many_nodes_for_the_walk() -> None:
    """Child and feature share 32 bits: 32767 features leave 17 bits, 131071 nodes."""
    inner = 70_000
    child = np.empty(2 * inner + 1, np.int32)
    child[:inner] = 1 + 2 * np.arange(inner)
    child[inner:] = -1
    feature = np.where(child > 0, 32767, 0).astype(np.int16)
    trees = Trees(feature, np.zeros(len(child), np.float32), child, np.zeros(1, np.int32), np.ones((1, 1), np.float32))
    check_trees(trees, 32768, 1, "here")
    with pytest.raises(InputError, match=r"140001 nodes.*fewer pixels, or a larger min_leaf"):
        PackedTrees(trees)
