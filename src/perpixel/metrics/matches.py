"""Scores of things matched one way and the other: contour pixels, skeleton pixels.

A table of matches holds whole numbers, (..., 4): predicted, predicted ones that are matched, true, true ones that are
matched. Tables of parts of an image set add up, or stand side by side, one an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def match_precision(counts: ArrayLike) -> Floats:
    """(..., 4) -> (...): share of what is predicted that is matched; NaN where nothing is predicted."""
    table = np.asarray(counts, dtype=np.float64)
    return _ratio(table[..., 1], table[..., 0])


def match_recall(counts: ArrayLike) -> Floats:
    """(..., 4) -> (...): share of what is true that is matched; NaN where nothing is true."""
    table = np.asarray(counts, dtype=np.float64)
    return _ratio(table[..., 3], table[..., 2])


def match_f1(counts: ArrayLike) -> Floats:
    """(..., 4) -> (...): 2 P R / (P + R); 0 where only one side has anything, NaN where neither has."""
    precision, recall = match_precision(counts), match_recall(counts)
    table = np.asarray(counts, dtype=np.float64)
    has_any = table[..., 0] + table[..., 2] > 0
    both = np.nan_to_num(precision) + np.nan_to_num(recall)
    f1 = np.divide(2 * np.nan_to_num(precision) * np.nan_to_num(recall), both, out=np.zeros_like(both), where=both > 0)
    return np.where(has_any, f1, np.nan)


def exact_mean(values: Iterable[float]) -> float:
    """Mean of what is not NaN, the same bits in whatever order the values come; NaN where there is none."""
    there = [float(value) for value in values if not math.isnan(value)]
    if not there:
        return math.nan
    return math.inf if math.inf in there else math.fsum(there) / len(there)


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
