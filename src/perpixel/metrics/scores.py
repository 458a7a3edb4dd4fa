"""Scores of a confusion matrix n (row = truth): one-line formulas on true t, predicted p and correct c pixels.

A class absent from truth and prediction has no score (NaN) and leaves the means; one that is predicted but absent
from the truth counts 0 for IoU, Dice and precision and leaves the mean accuracy. So do the scripts of the FCN authors
(Long et al., CVPR 2015). Others count an absent class as 1 (the Lovász repository) or 0: `empty` says so for IoU, Dice
and their means. Every function takes (..., K, K): one matrix or many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.errors import InputError

Floats = NDArray[np.float64]

DEFINITIONS = {
    "iou": "n_cc / (t_c + p_c - n_cc): intersection over union of class c, pixels counted over the whole set",
    "dice": "2 n_cc / (t_c + p_c): Dice coefficient of class c (F1), pixels counted over the whole set",
    "accuracy": "n_cc / t_c: share of the pixels of class c that are found (recall)",
    "precision": "n_cc / p_c: share of the pixels predicted as class c that are right",
    "miou": "mean of iou over the classes that occur in truth or prediction",
    "mean_dice": "mean of dice over the classes that occur in truth or prediction",
    "pixel_accuracy": "sum of n_cc / sum of t_c: share of all labelled pixels that are right",
    "mean_accuracy": "mean of accuracy over the classes that occur in the truth",
    "frequency_weighted_iou": "sum of t_c iou_c / sum of t_c: iou weighted by how often the class occurs",
}


def iou(matrix: ArrayLike, *, empty: float = math.nan) -> Floats:
    """(..., K, K) -> (..., K); `empty` where the class is neither predicted nor true."""
    truth, predicted, correct = _totals(matrix)
    return _ratio(correct, truth + predicted - correct, _checked(empty))


def dice(matrix: ArrayLike, *, empty: float = math.nan) -> Floats:
    """(..., K, K) -> (..., K); `empty` where the class is neither predicted nor true."""
    truth, predicted, correct = _totals(matrix)
    return _ratio(2 * correct, truth + predicted, _checked(empty))


def accuracy(matrix: ArrayLike) -> Floats:
    """(..., K, K) -> (..., K)"""
    truth, _, correct = _totals(matrix)
    return _ratio(correct, truth)


def precision(matrix: ArrayLike) -> Floats:
    """(..., K, K) -> (..., K); NaN only where the class is neither predicted nor true."""
    truth, predicted, correct = _totals(matrix)
    return np.where(truth + predicted > 0, _ratio(correct, np.maximum(predicted, 1)), np.nan)


def miou(matrix: ArrayLike, *, empty: float = math.nan) -> Floats:
    """(..., K, K) -> (...); classes that are nowhere count `empty`, NaN leaves them out."""
    return _mean(iou(matrix, empty=empty))


def mean_dice(matrix: ArrayLike, *, empty: float = math.nan) -> Floats:
    """(..., K, K) -> (...); classes that are nowhere count `empty`, NaN leaves them out."""
    return _mean(dice(matrix, empty=empty))


def pixel_accuracy(matrix: ArrayLike) -> Floats:
    """(..., K, K) -> (...)"""
    truth, _, correct = _totals(matrix)
    return _ratio(correct.sum(-1), truth.sum(-1))


def mean_accuracy(matrix: ArrayLike) -> Floats:
    """(..., K, K) -> (...)"""
    return _mean(accuracy(matrix))


def frequency_weighted_iou(matrix: ArrayLike) -> Floats:
    """(..., K, K) -> (...)"""
    truth, _, _ = _totals(matrix)
    return _ratio((truth * np.nan_to_num(iou(matrix))).sum(-1), truth.sum(-1))


CLASS_STATISTICS: dict[str, Callable[..., Floats]] = {
    "iou": iou,
    "dice": dice,
    "accuracy": accuracy,
    "precision": precision,
}
STATISTICS: dict[str, Callable[..., Floats]] = {
    "miou": miou,
    "mean_dice": mean_dice,
    "pixel_accuracy": pixel_accuracy,
    "mean_accuracy": mean_accuracy,
    "frequency_weighted_iou": frequency_weighted_iou,
}


@dataclass(frozen=True)
class Scores:
    """All scores of one confusion matrix; NaN where a class, or everything, is absent."""

    matrix: NDArray[np.int64]  # (K, K)
    iou: Floats  # (K,)
    dice: Floats  # (K,)
    accuracy: Floats  # (K,)
    precision: Floats  # (K,)
    miou: float
    mean_dice: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """{"confusion", "scores", "per_class", "definitions"}; `names` has one name a class; NaN becomes None."""
        if len(names) != len(self.iou):
            raise InputError(f"{len(names)} class names for {len(self.iou)} classes: give one name a class")
        pixels = self.matrix.sum(1)
        per_class = [
            {"name": name, **{key: _plain(getattr(self, key)[i]) for key in CLASS_STATISTICS}, "pixels": int(pixels[i])}
            for i, name in enumerate(names)
        ]
        return {
            "confusion": self.matrix.tolist(),
            "scores": {key: _plain(getattr(self, key)) for key in STATISTICS},
            "per_class": per_class,
            "definitions": dict(DEFINITIONS),
        }


def compute_scores(matrix: ArrayLike, *, empty: float = math.nan) -> Scores:
    """The scores of a (K, K) confusion matrix, row = truth.

    Args:
        empty: IoU and Dice of a class that is in neither truth nor prediction: NaN, 0 or 1. NaN leaves the means.
    Raises:
        InputError: the matrix is not square, or another value for `empty`.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2:
        raise InputError(f"confusion matrix of shape {counts.shape}: give (K, K); sum several over their first axis")
    options = {name: {"empty": empty} for name in ("iou", "dice", "miou", "mean_dice")}
    classes = {name: statistic(counts, **options.get(name, {})) for name, statistic in CLASS_STATISTICS.items()}
    means = {name: float(statistic(counts, **options.get(name, {}))) for name, statistic in STATISTICS.items()}
    return Scores(matrix=counts.astype(np.int64), **classes, **means)  # type: ignore[arg-type]


def _totals(matrix: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """True, predicted and correct pixels of each class, (..., K) each."""
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2]:
        raise InputError(f"confusion matrix of shape {counts.shape}: give (K, K), row = truth")
    return counts.sum(-1), counts.sum(-2), np.diagonal(counts, axis1=-2, axis2=-1)


def _checked(empty: float) -> float:
    if not (math.isnan(empty) or empty in (0, 1)):
        raise InputError(f"empty is {empty}: give NaN, 0 or 1")
    return empty


def _ratio(above: Floats, below: Floats, empty: float = math.nan) -> Floats:
    """above / below, `empty` where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), float(empty)), where=np.asarray(below) > 0)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is left (np.nanmean warns there)."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(-1), there.sum(-1))


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
