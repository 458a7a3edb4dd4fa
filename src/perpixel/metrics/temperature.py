"""Temperature scaling: the one number by which logits are divided so that probabilities can be believed.

Nets are trained until they are surer than they are right. Dividing all logits by T above 1 makes them less sure without
changing which class is highest. T is chosen on images that the net was not trained on, by the likelihood of their
labels.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.errors import InputError

# Beyond these a net is as good as certain, or as good as silent: the data do not tell how much.
COLDEST, HOTTEST = 0.05, 20.0
_STEPS = 60


@dataclass(frozen=True)
class TemperatureFit:
    """The temperature, and the mean negative log-likelihood (nats a pixel) before and after."""

    temperature: float
    nll_before: float
    nll_after: float
    pixels: int


def fit_temperature(log_probs: ArrayLike, target: ArrayLike) -> TemperatureFit:
    """The temperature at which the labels are most likely.

    Args:
        log_probs: (N, K) logits, or logarithms of probabilities, of N pixels.
        target: (N,) class ids.
    Returns:
        A temperature of 0.05 to 20. With 1/T as the unknown the likelihood has a single hill, so that bisection on its
        slope finds the top.
    Raises:
        InputError: no pixel, a class out of range, a logit that is not finite.
    """
    scores, truth = np.asarray(log_probs, dtype=np.float64), np.asarray(target)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not scores.size:
        raise InputError(
            f"log_probs {scores.shape} and target {truth.shape}: give (N, K) and (N,) of one pixel or more"
        )
    if not np.isfinite(scores).all():
        raise InputError("log_probs holds NaN or infinite values: check the model, or leave those pixels out")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise InputError(f"target holds classes outside 0..{scores.shape[1] - 1}: leave ignored pixels out")
    scores = scores - scores.max(axis=1, keepdims=True)
    true = np.take_along_axis(scores, truth[:, None].astype(np.int64), axis=1)[:, 0]
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        if _slope(scores, true, middle) > 0:
            high = middle
        else:
            low = middle
    sharpness = math.sqrt(low * high)
    return TemperatureFit(1 / sharpness, _nll(scores, true, 1.0), _nll(scores, true, sharpness), len(truth))


def _nll(scores: NDArray[np.float64], true: NDArray[np.float64], sharpness: float) -> float:
    """Mean negative log-likelihood; the highest score of each pixel is 0."""
    return float((np.log(np.exp(sharpness * scores).sum(axis=1)) - sharpness * true).mean())


def _slope(scores: NDArray[np.float64], true: NDArray[np.float64], sharpness: float) -> float:
    """Derivative of `_nll` by the sharpness 1/T: mean expected score less mean true score."""
    weights = np.exp(sharpness * scores)
    return float(((weights * scores).sum(axis=1) / weights.sum(axis=1) - true).mean())
