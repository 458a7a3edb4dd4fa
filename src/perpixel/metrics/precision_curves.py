"""The curves under which COCO's average precision is the area: highest precision at each recall or above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perpixel.metrics.coco_ap import HIT, RECALLS, THRESHOLDS, WRONG, DetectionRows
from perpixel.metrics.object_overlaps import Floats, Ints


def precision_curves(
    rows: DetectionRows | Sequence[DetectionRows], *, times: Ints | None = None, truths: Ints | None = None
) -> Floats:
    """(K, T, 101) precision by class, IoU threshold and recall (0, 0.01, ... 1), objects of all sizes.

    The mean over recalls is the average precision. NaN for classes without objects.

    Args:
        times: (N,) how often each image (by its number) is in the set, for the bootstrap; None is once.
        truths: (N, K) objects of each image, needed with `times`.
    """
    every = rows if isinstance(rows, DetectionRows) else DetectionRows.join(rows)
    order = np.lexsort((every.ranks, every.images, -every.scores, every.classes))
    weights = np.ones(len(order)) if times is None else times[every.images].astype(np.float64)
    totals = every.truths[0] if times is None or truths is None else times @ truths
    order = order[weights[order] > 0]
    curves = np.full((len(totals), len(THRESHOLDS), len(RECALLS)), np.nan)
    for kind in np.flatnonzero(totals):
        chosen = order[every.classes[order] == kind]
        states, weight = every.states[chosen, 0], weights[chosen, None]  # (D, T), (D, 1)
        hits, wrong = (np.cumsum(weight * (states == state), axis=0) for state in (HIT, WRONG))
        precision = hits / np.maximum(hits + wrong, 1)
        highest = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        for t in range(len(THRESHOLDS)):
            places = np.searchsorted(hits[:, t] / totals[kind], RECALLS, side="left")
            reached = places < len(states)
            curves[kind, t] = 0.0
            curves[kind, t, reached] = highest[places[reached], t]
    return curves
