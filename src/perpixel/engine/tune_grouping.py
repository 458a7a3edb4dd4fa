"""Choose how maps are grouped into objects, on validation images: maps are computed once, the settings tried on them.

One setting at a time is improved, starting from the present ones. The result is a `Grouping`, plain values that go
with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from perpixel.errors import InputError
from perpixel.labels import Grouping, Instances, group_objects
from perpixel.metrics import InstanceCounts, instance_counts, instance_scores

# What each setting is tried at, in the order of the search.
GRID: dict[str, tuple[float, ...]] = {
    "persistence": (0.03, 0.06, 0.1, 0.15, 0.2, 0.3),
    "foreground": (0.3, 0.4, 0.5, 0.6, 0.7),
    "contact": (0.0, 0.5, 1.0),
    "least_peak": (0.0, 0.2, 0.35, 0.5),
    "least_area": (4, 8, 12, 20, 32),
    "least_score": (0.0, 0.3, 0.4, 0.5, 0.6, 0.7),
}
ROUNDS = 2
# What a setting must gain to replace another one: less is noise.
LEAST_GAIN = 1e-4


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """What a net says of one validation image, and its objects.

    Attributes:
        probs: (K, H, W) float, height, contact: (H, W) float; halves of precision are enough.
        target: the true objects, on the same grid.
    """

    probs: np.ndarray
    height: np.ndarray
    contact: np.ndarray
    target: Instances


@dataclass(frozen=True)
class GroupingChoice:
    """What the search found.

    Attributes:
        before, after: scores of the first and of the chosen settings: mean of the AP at IoU 0.5 and of its mean over
            0.5, 0.55, ... 0.95, TP / (TP + FP + FN) each.
        tried: settings and score of each candidate, in the order of the search.
    """

    grouping: Grouping
    before: float
    after: float
    tried: tuple[dict[str, Any], ...]


def tune_grouping(
    maps: Iterable[ObjectMaps],
    *,
    num_classes: int,
    start: Grouping | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> GroupingChoice:
    """Search from `start` on.

    Args:
        maps: of images that were not trained on, and that the scores to report are not taken from.
        num_classes: K, background (class 0) included.
        on_step: called with (settings tried, a bound of them).
    Raises:
        InputError: no image.
    """
    images = list(maps)
    if not images:
        raise InputError("no image to choose the grouping on: give one or more with objects")
    scores: dict[Grouping, float] = {}
    bound = 1 + ROUNDS * sum(len(values) for values in GRID.values())

    def score(grouping: Grouping) -> float:
        if grouping not in scores:
            scores[grouping] = _score(images, grouping, num_classes)
            if on_step:
                on_step(len(scores), bound)
        return scores[grouping]

    best = start or Grouping()
    first = score(best)
    for _ in range(ROUNDS):
        before = best
        for name, values in GRID.items():
            for value in values:
                candidate = Grouping.from_json({**best.to_json(), name: value})
                if score(candidate) > score(best) + LEAST_GAIN:
                    best = candidate
        if best == before:
            break
    tried = tuple({**grouping.to_json(), "score": value} for grouping, value in scores.items())
    return GroupingChoice(best, first, score(best), tried)


def _score(images: list[ObjectMaps], grouping: Grouping, num_classes: int) -> float:
    counts = []
    for each in images:
        probs, height, contact = (part.astype(np.float32) for part in (each.probs, each.height, each.contact))
        found = group_objects(probs, height, contact, grouping)
        counts.append(instance_counts(found, each.target, num_classes=num_classes, boundary=False))
    summary = instance_scores(InstanceCounts.join(counts)).summary()
    value = (summary["ap_50"] + summary["mean_ap"]) / 2
    return value if np.isfinite(value) else 0.0
