"""Training of the pixel forest's trees: scikit-learn's, a few at a time, so that a clock can end it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from perpixel.errors import import_extra

# Trees that are trained between two looks at the clock.
_BATCH = 10
# With little time, pixels are left out down to this number before trees are.
_FEWEST_PIXELS = 5000
# A trial tree is trained on so many pixels, to learn how fast the machine is.
_TRIAL_PIXELS = 2000


def fit_forest(
    features: np.ndarray,
    classes: np.ndarray,
    *,
    trees: int,
    max_depth: int | None,
    min_leaf: int,
    balanced: bool,
    seed: int,
    threads: int,
    deadline: float | None,
    on_trees: Callable[[int], None],
) -> tuple[Any, int]:
    """A fitted RandomForestClassifier, and the number of pixels that it was given.

    Args:
        deadline: time.perf_counter() at which it should be done; pixels, then trees are left out for that.
        on_trees: called with the number of trees done.
    """
    ensemble = import_extra("sklearn.ensemble", "forest")
    settings: dict[str, Any] = {
        "max_features": "sqrt", "max_depth": max_depth, "min_samples_leaf": min_leaf, "random_state": seed,
        "class_weight": _class_weights(classes) if balanced else None, "n_jobs": threads,
    }  # fmt: skip
    if deadline is not None:
        make = lambda: ensemble.RandomForestClassifier(1, **settings)  # noqa: E731
        features, classes = _affordable(make, features, classes, trees, threads, seed, deadline)
    forest = ensemble.RandomForestClassifier(0, warm_start=True, **settings)
    began = time.perf_counter()
    while forest.n_estimators < trees:
        done = forest.n_estimators
        if deadline is not None and done:
            now = time.perf_counter()
            if now + (now - began) / done * _BATCH > deadline:
                break
        forest.n_estimators = min(trees, done + _BATCH)
        forest.fit(features, classes)
        on_trees(forest.n_estimators)
    return forest, len(classes)


def _class_weights(classes: np.ndarray) -> dict[int, float]:
    """Every class counts the same in all; written out, since "balanced" does not go with trees that are added."""
    present, counts = np.unique(classes, return_counts=True)
    return {int(each): len(classes) / (len(present) * int(count)) for each, count in zip(present, counts)}


def _affordable(
    make: Callable[[], Any],
    features: np.ndarray,
    classes: np.ndarray,
    trees: int,
    threads: int,
    seed: int,
    deadline: float,
) -> tuple[np.ndarray, np.ndarray]:
    """As many pixels as all trees can be trained on until the deadline; the cost of a tree grows as n log n."""
    order = np.random.default_rng(seed).permutation(len(classes))
    trial = order[:_TRIAL_PIXELS]
    if len(trial) == len(order) or len(np.unique(classes[trial])) < 2:
        return features, classes
    began = time.perf_counter()
    make().fit(features[trial], classes[trial])
    pace = (time.perf_counter() - began) * trees / threads / (len(trial) * math.log2(len(trial)))
    left = max(0.0, deadline - time.perf_counter())
    pixels = len(order)
    while pixels > _FEWEST_PIXELS and pace * pixels * math.log2(pixels) > left:
        pixels = max(_FEWEST_PIXELS, int(0.9 * pixels))
    kept = np.sort(order[:pixels])
    if len(np.unique(classes[kept])) < len(np.unique(classes)):  # a rare class stays, whatever it costs
        lost = np.flatnonzero(~np.isin(classes, classes[kept]))
        kept = np.sort(np.concatenate([kept, lost]))
    return features[kept], classes[kept]


def out_of_bag_accuracy(forest: Any, features: np.ndarray, classes: np.ndarray) -> float | None:
    """Share of the training pixels that the trees which did not see them call right; None without such pixels.

    Neighbours of a pixel were seen, so it is better than what new images will show.
    """
    forest.oob_score = True
    with warnings.catch_warnings():
        # That no trees are added, and that some pixels are in every tree's bag.
        warnings.simplefilter("ignore")
        forest.fit(features, classes)
    score = float(forest.oob_score_)
    return score if math.isfinite(score) else None
