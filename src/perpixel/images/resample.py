"""Volumes to another voxel size and back: images by cubic splines, label maps and probabilities by linear weights.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021): the field of view stays, a voxel stands for the box
around its centre; where one axis is more than three times as coarse as the others, nothing is interpolated along it
(nearest voxel), since slices far apart have nothing between them. No low-pass filter comes before shrinking.

Every method is a matrix a axis, applied in blocks of its band: a resampling costs a few matrix products, not 64 taps a
voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.images.geometry import Geometry

ANISOTROPY = 3.0
SIDES = 3
# Pole of the cubic B-spline: weights of the inverse filter fall by this factor from voxel to voxel.
POLE = math.sqrt(3) - 2
REACH = 16  # |POLE| ** 16 is below 1e-9
# Rows of an axis matrix that are applied at once, and slices of a label map that are made at once.
BLOCK_ROWS = 64
SLAB_SLICES = 32


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """How an axis is resampled: `matrix` (out, in) float32, of which row r is zero outside `first[r]:last[r]`."""

    matrix: np.ndarray
    first: np.ndarray
    last: np.ndarray


@dataclass(frozen=True, eq=False)
class Resampling:
    """From one grid to another over the same field of view, and back.

    Attributes:
        coarse_axis: the axis along which nothing is interpolated, or None.
    """

    source: Geometry
    target: Geometry
    coarse_axis: int | None

    def image(self, image: np.ndarray) -> np.ndarray:
        """(C, *source) -> (C, *target) float32."""
        return resample_image(image, self.target.shape, coarse_axis=self.coarse_axis)

    def label_map(self, label_map: np.ndarray) -> np.ndarray:
        """(*source) -> (*target) of the same type."""
        return resample_label_map(label_map, self.target.shape, coarse_axis=self.coarse_axis)

    def probs_back(self, probs: np.ndarray) -> np.ndarray:
        """(K, *target) -> (K, *source) float32."""
        return resample_probs(probs, self.source.shape, coarse_axis=self.coarse_axis)

    def label_map_back(self, probs: np.ndarray) -> np.ndarray:
        """(K, *target) -> the most probable class (*source), without K maps of that size."""
        return resampled_argmax(probs, self.source.shape, coarse_axis=self.coarse_axis)


def plan_resampling(source: Geometry, spacing_mm: Sequence[float]) -> Resampling:
    """The grid of about `spacing_mm` over the field of view of `source`: whole voxels make the spacing differ a bit."""
    shape = resampled_shape(source.shape, source.spacing_mm, spacing_mm)
    return Resampling(source, resampled_geometry(source, shape), find_coarse_axis(source.spacing_mm, spacing_mm))


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, int, int]:
    """Voxels at `target_mm`, at least 1 along each axis."""
    depth, height, width = (
        max(1, round(side * here / there)) for side, here, there in zip(shape, spacing_mm, target_mm)
    )
    return depth, height, width


def resampled_geometry(source: Geometry, shape: tuple[int, int, int]) -> Geometry:
    """The geometry of `shape` voxels over the same box."""
    scale = np.array(source.shape) / np.array(shape)
    affine = source.affine.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] = source.position_mm(tuple((scale - 1) / 2))
    return Geometry(shape, affine)


def find_coarse_axis(spacing_mm: Sequence[float], target_mm: Sequence[float]) -> int | None:
    """The axis more than three times as coarse as the finest, before or else after resampling; None if there is none.

    Two coarse axes are none: then all are interpolated.
    """
    for spacing in (spacing_mm, target_mm):
        if max(spacing) > ANISOTROPY * min(spacing):
            coarse = [axis for axis in range(SIDES) if spacing[axis] >= max(spacing) * (1 - 1e-6)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample_image(image: np.ndarray, shape: tuple[int, int, int], *, coarse_axis: int | None = None) -> np.ndarray:
    """(C, D, H, W) of any type -> (C, *shape) float32 by cubic splines, mirrored at the borders."""
    weights = _all_weights("cubic", image.shape[1:], shape, coarse_axis)
    result = np.empty((image.shape[0], *shape), np.float32)
    for channel, out in zip(image, result):
        out[...] = _apply_all(channel.astype(np.float32), weights)
    return result


def resample_label_map(
    label_map: np.ndarray, shape: tuple[int, int, int], *, coarse_axis: int | None = None
) -> np.ndarray:
    """(D, H, W) integers -> (*shape) of the same type: each value's mask linearly, then the largest wins.

    At a tie the smaller value wins. Memory does not grow with the number of values, and each costs only its own box.
    """
    if label_map.shape == tuple(shape):
        return label_map.copy()
    weights = _all_weights("linear", label_map.shape, shape, coarse_axis)
    values, boxes = _boxes(label_map)
    result = np.full(shape, values[0], label_map.dtype)
    best = np.zeros(shape, np.float32)
    for value, box in zip(values, boxes):
        reached = tuple(_reached(each, part) for each, part in zip(weights, box))
        parts = [_cut(each, out, part) for each, out, part in zip(weights, reached, box)]
        share = _apply_all((label_map[box] == value).astype(np.float32), parts)
        _take_larger(result[reached], best[reached], share, value)
    return result


def resample_probs(probs: np.ndarray, shape: tuple[int, int, int], *, coarse_axis: int | None = None) -> np.ndarray:
    """(K, D, H, W) -> (K, *shape) float32, linearly: what summed to 1 sums to 1."""
    weights = _all_weights("linear", probs.shape[1:], shape, coarse_axis)
    result = np.empty((probs.shape[0], *shape), np.float32)
    for one, out in zip(probs, result):
        out[...] = _apply_all(np.asarray(one, np.float32), weights)
    return result


def resampled_argmax(probs: np.ndarray, shape: tuple[int, int, int], *, coarse_axis: int | None = None) -> np.ndarray:
    """(K, D, H, W) -> the index of the largest of `resample_probs`, (*shape) uint8 or uint16, slab by slab."""
    depth, *planes = _all_weights("linear", probs.shape[1:], shape, coarse_axis)
    result = np.zeros(shape, np.uint8 if len(probs) <= 256 else np.uint16)
    for start in range(0, shape[0], SLAB_SLICES):
        rows = slice(start, min(start + SLAB_SLICES, shape[0]))
        part = slice(int(depth.first[rows].min()), int(depth.last[rows].max())) if depth is not None else rows
        weights = [_cut(depth, rows, part), *planes]
        best = _apply_all(np.asarray(probs[0][part], np.float32), weights)
        for index in range(1, len(probs)):
            share = _apply_all(np.asarray(probs[index][part], np.float32), weights)
            _take_larger(result[rows], best, share, index)
    return result


def _take_larger(result: np.ndarray, best: np.ndarray, share: np.ndarray, value: int) -> None:
    """Put `value` where its share is larger than the best one so far; both arrays are changed in place."""
    result[share > best] = value
    np.maximum(best, share, out=best)


def _boxes(label_map: np.ndarray) -> tuple[list[int], list[tuple[slice, slice, slice]]]:
    """The values that occur, ascending, and the box of each; slice by slice, so that no wide copy is made."""
    values = np.unique(np.concatenate([np.unique(part) for part in label_map]))
    count = len(values)
    there = [np.zeros((side, count), bool) for side in label_map.shape]
    rows, cols = (np.arange(side) * count for side in label_map.shape[1:])
    for number, part in enumerate(label_map):
        places = np.searchsorted(values, part)
        by_row = np.bincount((places + rows[:, None]).ravel(), minlength=len(rows) * count) > 0
        by_col = np.bincount((places + cols).ravel(), minlength=len(cols) * count) > 0
        there[1] |= by_row.reshape(-1, count)
        there[2] |= by_col.reshape(-1, count)
        there[0][number] = by_row.reshape(-1, count).any(axis=0)
    boxes = []
    for index in range(count):
        depth, height, width = (_span(each[:, index]) for each in there)
        boxes.append((depth, height, width))
    return values.tolist(), boxes


def _span(there: np.ndarray) -> slice:
    held = np.flatnonzero(there)
    return slice(int(held[0]), int(held[-1]) + 1)


# ---- weights


def _all_weights(
    kind: str, source: Sequence[int], target: Sequence[int], coarse_axis: int | None
) -> list[AxisWeights | None]:
    """One for each axis; None where the axis stays as it is."""
    return [
        None if here == there else axis_weights("nearest" if axis == coarse_axis else kind, here, there)
        for axis, (here, there) in enumerate(zip(source, target))
    ]


def axis_weights(kind: str, source: int, target: int) -> AxisWeights:
    """How `source` samples of an axis make `target` ones over the same length.

    Args:
        kind: "nearest", "linear" or "cubic" (interpolating B-spline).
    """
    places = (np.arange(target) + 0.5) * (source / target) - 0.5
    if kind == "nearest":
        taps, weights = np.floor(places + 0.5).astype(np.int64)[:, None], np.ones((target, 1))
    elif kind == "linear":
        start = np.floor(places).astype(np.int64)
        taps = start[:, None] + np.arange(2)
        weights = 1 - np.abs(places[:, None] - taps)
    else:
        taps, weights = _cubic_taps(places)
    # Half a sample beyond the last one the axis is mirrored: ... 1 0 0 1 ...
    period = 2 * source
    folded = taps % period
    folded = np.where(folded < source, folded, period - 1 - folded)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target)[:, None], folded), weights)
    matrix /= matrix.sum(axis=1, keepdims=True)
    return AxisWeights(matrix.astype(np.float32), folded.min(axis=1), folded.max(axis=1) + 1)


def _cubic_taps(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(target, T) samples and weights of the spline that goes through them: its B-splines after their inverse filter.

    Unser, Aldroubi, Eden, "B-spline signal processing", IEEE Trans. Signal Processing 41(2), 1993.
    """
    start = np.floor(places).astype(np.int64) - 1
    distance = np.abs(places[:, None] - (start[:, None] + np.arange(4)))
    near, far = 2 / 3 - distance**2 * (1 - distance / 2), np.maximum(2 - distance, 0) ** 3 / 6
    splines = np.where(distance < 1, near, far)
    inverse = math.sqrt(3) * POLE ** np.abs(np.arange(-REACH, REACH + 1))
    weights = np.zeros((len(places), 4 + 2 * REACH))
    for number in range(4):
        weights[:, number : number + len(inverse)] += splines[:, number : number + 1] * inverse
    return start[:, None] - REACH + np.arange(4 + 2 * REACH), weights


def _reached(weights: AxisWeights | None, part: slice) -> slice:
    """The outputs that the inputs in `part` have a share in."""
    if weights is None:
        return part
    held = np.flatnonzero((weights.first < part.stop) & (weights.last > part.start))
    return slice(int(held[0]), int(held[-1]) + 1) if len(held) else slice(0, 0)


def _cut(weights: AxisWeights | None, out: slice, part: slice) -> AxisWeights | None:
    """The weights of the inputs in `part` for the outputs in `out`."""
    if weights is None:
        return None
    size = part.stop - part.start
    first = np.clip(weights.first[out] - part.start, 0, size)
    last = np.clip(weights.last[out] - part.start, 0, size)
    return AxisWeights(weights.matrix[out, part], first, last)


def _apply_all(volume: np.ndarray, weights: Sequence[AxisWeights | None]) -> np.ndarray:
    """All axes one after the other, those that shrink first: the rest then costs less."""
    wanted = [(len(each.matrix) / max(1, each.matrix.shape[1]), axis) for axis, each in enumerate(weights) if each]
    for _, axis in sorted(wanted):
        each = weights[axis]
        assert each is not None
        volume = _apply(volume, each, axis)
    return volume


def _apply(volume: np.ndarray, weights: AxisWeights, axis: int) -> np.ndarray:
    """(D, H, W) float32 with one axis resampled."""
    rows = len(weights.matrix)
    shape = list(volume.shape)
    shape[axis] = rows
    result = np.empty(shape, np.float32)
    for start in range(0, rows, BLOCK_ROWS):
        out = slice(start, min(start + BLOCK_ROWS, rows))
        low, high = int(weights.first[out].min()), int(weights.last[out].max())
        matrix = weights.matrix[out, low:high]
        if axis == 0:
            np.matmul(matrix, volume[low:high].reshape(high - low, -1), out=result[out].reshape(matrix.shape[0], -1))
        elif axis == 1:
            result[:, out] = np.matmul(matrix, volume[:, low:high])
        else:
            result[..., out] = np.matmul(volume[..., low:high], matrix.T)
    return result
