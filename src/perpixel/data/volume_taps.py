"""Blur and low resolution of a volume: a few taps along each axis, both composed into one map before it is applied."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.compiled import compile_loop
from perpixel.images.resample import axis_weights

# Standard deviations at which a Gaussian is cut off.
CUT = 4.0


def smooth_volume(
    volume: np.ndarray, *, blur: float = 0.0, resolution: float = 1.0, coarse: int | None = None
) -> NDArray[np.float32]:
    """Blur, then lose resolution, along every axis.

    Args:
        volume: (D, H, W) float32; its border values go on outside.
        blur: standard deviation of a Gaussian in voxels; 0 for none.
        resolution: share of the voxels that are left: boxes are averaged, and interpolated linearly back; 1 for all.
        coarse: axis left as it is.
    """
    for axis, side in enumerate(volume.shape):
        if axis != coarse:
            starts, weights = _taps(side, float(blur), float(resolution))
            volume = _apply_taps(volume, axis, starts, weights)
    return np.asarray(volume, np.float32)


def _apply_taps(volume: np.ndarray, axis: int, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(volume).reshape(int(np.prod(volume.shape[:axis])), volume.shape[axis], -1)
    result = np.empty_like(flat)
    (_compiled_loop() or _sum_numpy)(flat, starts, weights, result)
    return result.reshape(volume.shape)


def _taps(side: int, blur: float, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """First source sample (side,) int64 and weights (side, T) float32 of every sample along an axis."""
    matrix = _low_resolution(side, resolution) @ _gauss(side, blur)
    held = np.abs(matrix) > 1e-9
    first, last = held.argmax(1), side - held[:, ::-1].argmax(1)
    count = int((last - first).max())
    starts = np.minimum(first, side - count)
    return starts, np.take_along_axis(matrix, starts[:, None] + np.arange(count), 1).astype(np.float32)


def _gauss(side: int, blur: float) -> np.ndarray:
    """(side, side) Gaussian weights; rows sum to 1."""
    if blur <= 0:
        return np.eye(side)
    reach = int(np.ceil(CUT * blur))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / blur) ** 2)
    places = np.clip(np.arange(side)[:, None] + offsets, 0, side - 1)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], places), weights / weights.sum())
    return matrix


def _low_resolution(side: int, share: float) -> np.ndarray:
    """(side, side): means of equal boxes, as many as `share` of the samples, and linear interpolation between them."""
    boxes = max(1, round(side * share))
    if boxes >= side:
        return np.eye(side)
    edges, samples = np.arange(boxes + 1) * (side / boxes), np.arange(side)
    common = np.minimum(edges[1:, None], samples + 1) - np.maximum(edges[:-1, None], samples)
    means = np.clip(common, 0, None) * (boxes / side)
    return np.asarray(axis_weights("linear", boxes, side).matrix.astype(np.float64) @ means)


@cache
def _compiled_loop() -> Callable[..., Any] | None:
    return compile_loop(_sum_loop)


def _sum_loop(values: Any, starts: Any, weights: Any, result: Any) -> None:
    """(A, n, B): every sample along the middle axis becomes a weighted sum of some."""
    for a in range(values.shape[0]):
        for i in range(values.shape[1]):
            start = starts[i]
            if values.shape[2] == 1:
                total = np.float32(0)
                for t in range(weights.shape[1]):
                    total += weights[i, t] * values[a, start + t, 0]
                result[a, i, 0] = total
                continue
            result[a, i] = 0
            for t in range(weights.shape[1]):
                for b in range(values.shape[2]):
                    result[a, i, b] += weights[i, t] * values[a, start + t, b]


def _sum_numpy(values: Any, starts: Any, weights: Any, result: Any) -> None:
    result.fill(0)
    for t in range(weights.shape[1]):
        result += weights[None, :, t, None] * values[:, starts + t]
