"""Training under a clock: pixels are left out before trees, rare classes never."""

from __future__ import annotations

import time

import numpy as np

from perpixel.classical.pixel_training import fit_forest, out_of_bag_accuracy


def samples(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    features = random.normal(size=(count, 4)).astype(np.float32)
    classes = (features[:, 0] > 0).astype(np.int64)
    classes[:3] = 5
    return features, classes


def test_without_time_left() -> None:
    features, classes = samples(8000)
    seen: list[int] = []
    forest, pixels = fit_forest(
        features, classes, trees=40, max_depth=None, min_leaf=1, balanced=False, seed=0, threads=1,
        deadline=time.perf_counter(), on_trees=seen.append,
    )  # fmt: skip
    assert seen == [10] and len(forest.estimators_) == 10
    assert 5000 <= pixels <= 5003
    assert forest.classes_.tolist() == [0, 1, 5]


def test_with_all_the_time_it_is_scikit_learn_s_forest() -> None:
    from sklearn.ensemble import RandomForestClassifier

    features, classes = samples(600)
    settings = {"max_depth": 6, "min_samples_leaf": 2, "random_state": 3}
    wanted = RandomForestClassifier(25, **settings).fit(features, classes)
    for deadline in (None, time.perf_counter() + 600):
        seen: list[int] = []
        forest, pixels = fit_forest(
            features, classes, trees=25, max_depth=6, min_leaf=2, balanced=False, seed=3, threads=2,
            deadline=deadline, on_trees=seen.append,
        )  # fmt: skip
        assert seen == [10, 20, 25] and pixels == 600
        # Two threads add up the trees in either order, which moves the last bit.
        np.testing.assert_allclose(forest.predict_proba(features), wanted.predict_proba(features), rtol=0, atol=1e-12)


def test_out_of_bag_accuracy() -> None:
    features, classes = samples(600)
    forest, _ = fit_forest(
        features, classes, trees=20, max_depth=None, min_leaf=1, balanced=True, seed=0, threads=1, deadline=None,
        on_trees=lambda done: None,
    )  # fmt: skip
    score = out_of_bag_accuracy(forest, features, classes)
    assert score is not None and 0.9 < score < 1  # the three pixels of class 5 are noise
    assert len(forest.estimators_) == 20
