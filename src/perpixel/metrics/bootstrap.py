"""How far a score would move with other images of the same kind: percentile bootstrap over images.

Images are drawn with replacement, their confusion matrices summed, and the dataset-level score taken on each sum.
Pixels of one image hang together, so drawing pixels would give intervals that are far too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.errors import InputError, did_you_mean
from perpixel.metrics.scores import CLASS_STATISTICS, STATISTICS

_CHUNK_BYTES = 64 << 20

Bound = float | NDArray[np.float64]


def bootstrap_intervals(
    matrices: ArrayLike,
    *,
    statistics: Sequence[str] = tuple(STATISTICS),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, tuple[Bound, Bound]]:
    """Intervals of dataset-level scores.

    Args:
        matrices: (N, K, K) counts, one matrix an image, row = truth.
        statistics: names of `STATISTICS` (one interval) or `CLASS_STATISTICS` (an interval for each class).
        resamples: how many sets of N images are drawn.
        confidence: share of the resampled scores inside the interval, 0..1.
        seed: same seed, same intervals.
        groups: (N,) key of each image (patient, slide): images of one group are drawn together.
    Returns:
        name -> (low, high): floats, or (K,) arrays for class statistics. NaN where the class never occurs; resamples
        in which it does not occur are left out of its interval. With a single image (or group) low equals high.
    Raises:
        InputError: no image, unknown statistic, a share outside 0..1.
    """
    known = STATISTICS | CLASS_STATISTICS
    for name in statistics:
        if name not in known:
            raise InputError(f"unknown statistic '{name}'{did_you_mean(name, known)}")
    counts = np.asarray(matrices, dtype=np.float64)
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2] or not len(counts):
        raise InputError(f"matrices of shape {counts.shape}: give (N, K, K), one confusion matrix an image")
    chosen = {name: known[name] for name in statistics}
    return bootstrap_sums(counts, chosen, resamples=resamples, confidence=confidence, seed=seed, groups=groups)


def bootstrap_sums(
    tables: ArrayLike,
    statistics: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, tuple[Bound, Bound]]:
    """Intervals of scores that are functions of sums over images. The same seed draws the same images every time.

    Args:
        tables: (N, ...) numbers of each image that add up. A mean over images is a ratio of two sums.
        statistics: name -> function of (R, ...) sums, giving (R,) or (R, K) scores.
        resamples, confidence, seed, groups: as for `bootstrap_intervals`.
    Raises:
        InputError: no image, a share outside 0..1.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}: give a share between 0 and 1, as 0.95")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}: give 1 or more")
    numbers = np.asarray(tables, dtype=np.float64)
    if numbers.ndim < 1 or not len(numbers):
        raise InputError(f"tables of shape {numbers.shape}: give (N, ...), the numbers of one image or more")
    drawn = _resample(_grouped(numbers, groups), statistics, resamples, seed)
    return {name: _interval(drawn[name], confidence) for name in statistics}


def _grouped(counts: NDArray[np.float64], groups: Sequence[Hashable] | None) -> NDArray[np.float64]:
    if groups is None:
        return counts
    if len(groups) != len(counts):
        raise InputError(f"{len(groups)} groups for {len(counts)} matrices: give one key an image")
    order = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(order), *counts.shape[1:]))
    np.add.at(summed, [order[key] for key in groups], counts)
    return summed


def _resample(
    counts: NDArray[np.float64],
    statistics: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]],
    resamples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """name -> (resamples,) or (resamples, K). Drawing n of n with replacement is a multinomial count of each image,
    so a whole chunk of sums is one matrix product (exact for counts, which stay far below 2^53)."""
    generator = np.random.default_rng(seed)
    number = len(counts)
    flat = counts.reshape(number, -1)
    chunk = max(1, _CHUNK_BYTES // (8 * (flat.shape[1] + number)))
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in statistics}
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        times = generator.multinomial(number, np.full(number, 1 / number), size=size)
        sums = (times.astype(np.float64) @ flat).reshape(size, *counts.shape[1:])
        for name in statistics:
            parts[name].append(statistics[name](sums))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _interval(values: NDArray[np.float64], confidence: float) -> tuple[Bound, Bound]:
    tail = (1 - confidence) / 2
    columns = values.reshape(len(values), -1)
    bounds = np.full((2, columns.shape[1]), np.nan)
    for i in range(columns.shape[1]):
        there = columns[~np.isnan(columns[:, i]), i]
        if there.size:
            bounds[:, i] = np.quantile(there, [tail, 1 - tail])
    if values.ndim == 1:
        return float(bounds[0, 0]), float(bounds[1, 0])
    return bounds[0], bounds[1]
