"""How many pixels each pair of objects shares, of two label maps or of two sets of masks: only pairs that share any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from perpixel.compiled import compile_loop
from perpixel.errors import InputError
from perpixel.labels.rle import Ints, Runs

# Pairs of boxes compared at once where nothing is compiled.
_ROWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class OverlapTable:
    """Two divisions of an image into objects, laid over each other.

    Attributes:
        rows, cols: (P,) the places in `pred_ids` and `target_ids` of each pair that overlaps.
        shared: (P,) pixels.
        pred_ids, target_ids: the numbers of the objects, rising.
        pred_areas, target_areas: pixels of each.
    """

    rows: Ints
    cols: Ints
    shared: Ints
    pred_ids: Ints
    target_ids: Ints
    pred_areas: Ints
    target_areas: Ints


def overlap_table(pred: Any, target: Any) -> OverlapTable:
    """Lay two instance maps of one shape over each other; 0 is background in both.

    Args:
        pred, target: (H, W) or (D, H, W) whole numbers.
    Raises:
        InputError: shapes differ, or values are not whole numbers.
    """
    first, second = np.asarray(pred), np.asarray(target)
    for name, array in (("pred", first), ("target", second)):
        if array.dtype.kind not in "iub":
            raise InputError(f"{name} is {array.dtype}: give an instance map of whole numbers")
    if first.shape != second.shape:
        raise InputError(
            f"pred {first.shape} and target {second.shape} differ in shape: resize the prediction to the truth"
        )
    one, two = first.ravel(), second.ravel()
    if not one.size:
        nothing = np.zeros(0, np.int64)
        return OverlapTable(*(nothing,) * 7)
    # Neighbours mostly belong to the same pair: runs of a pair are counted, not pixels.
    turns = np.flatnonzero((one[1:] != one[:-1]) | (two[1:] != two[:-1])) + 1
    starts = np.concatenate([[0], turns])
    ours, theirs = (_small_numbers(values[starts]) for values in (one, two))
    step = int(theirs.max()) + 1
    keys = ours * step + theirs
    order = np.argsort(keys, kind="stable")
    first_of_pair = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0]))
    shared = np.add.reduceat(np.diff(np.concatenate([starts, [one.size]]))[order], first_of_pair)
    pairs = order[first_of_pair]
    pred_ids, rows = np.unique(one[starts[pairs]], return_inverse=True)
    target_ids, cols = np.unique(two[starts[pairs]], return_inverse=True)
    pred_areas = np.bincount(rows, shared, len(pred_ids)).astype(np.int64)
    target_areas = np.bincount(cols, shared, len(target_ids)).astype(np.int64)
    return _without_background(rows, cols, shared.astype(np.int64), pred_ids, target_ids, pred_areas, target_areas)


def _small_numbers(values: Any) -> Ints:
    """Whole numbers from 0 that are equal where `values` are, small enough that the product of two fits 63 bits."""
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high < 2**31:
        return values.astype(np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _without_background(
    rows: Ints, cols: Ints, shared: Ints, pred_ids: Any, target_ids: Any, pred_areas: Ints, target_areas: Ints
) -> OverlapTable:
    is_pred, is_target = pred_ids != 0, target_ids != 0
    both = is_pred[rows] & is_target[cols]
    new_row, new_col = np.cumsum(is_pred) - 1, np.cumsum(is_target) - 1
    return OverlapTable(
        new_row[rows[both]],
        new_col[cols[both]],
        shared[both],
        pred_ids[is_pred].astype(np.int64),
        target_ids[is_target].astype(np.int64),
        pred_areas[is_pred],
        target_areas[is_target],
    )


def overlaps(first: Runs, second: Runs, groups: tuple[Ints, Ints] | None = None) -> tuple[Ints, Ints, Ints]:
    """Pairs of masks that share a pixel.

    Args:
        groups: the group (class) of each mask in `first` and in `second`; only pairs of one group are looked at.
    Returns:
        (P,) numbers in `first`, (P,) numbers in `second`, (P,) pixels shared; sorted by the first, then the second.
    """
    if first.size != second.size:
        raise InputError(f"masks of images of {first.size} and {second.size}: compare masks of one size")
    rows, cols = _meeting_boxes(first.boxes, second.boxes)
    if groups is not None:
        alike = groups[0][rows] == groups[1][cols]
        rows, cols = rows[alike], cols[alike]
    shared = shared_pixels(first, second, rows, cols)
    has_any = shared > 0
    return rows[has_any], cols[has_any], shared[has_any]


def shared_pixels(first: Runs, second: Runs, rows: Ints, cols: Ints) -> Ints:
    """(P,) pixels that the masks rows[p] of `first` and cols[p] of `second` share."""
    kernel = _compiled_shared()
    if kernel is None:
        return _shared_numpy(first, second, rows, cols)
    shared = np.zeros(len(rows), np.int64)
    kernel(first.spans, first.starts, second.spans, second.starts, rows, cols, shared)
    return shared


def _meeting_boxes(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Pairs of boxes x0 y0 x1 y1 that share a pixel."""
    found = []
    step = max(1, _ROWS_AT_ONCE // max(1, len(second)))
    for start in range(0, len(first), step):
        part = first[start : start + step, None]
        meet = (part[..., 0] < second[:, 2]) & (second[:, 0] < part[..., 2])
        meet &= (part[..., 1] < second[:, 3]) & (second[:, 1] < part[..., 3])
        rows, cols = np.nonzero(meet)
        found.append((rows + start, cols))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([rows for rows, _ in found]), np.concatenate([cols for _, cols in found])


def _shared(spans_a: Any, starts_a: Any, spans_b: Any, starts_b: Any, rows: Any, cols: Any, shared: Any) -> None:
    for pair in range(len(rows)):
        total = 0
        a, last_a = starts_a[rows[pair]], starts_a[rows[pair] + 1]
        b, last_b = starts_b[cols[pair]], starts_b[cols[pair] + 1]
        while a < last_a and b < last_b:
            common = min(spans_a[a, 1], spans_b[b, 1]) - max(spans_a[a, 0], spans_b[b, 0])
            if common > 0:
                total += common
            if spans_a[a, 1] < spans_b[b, 1]:
                a += 1
            else:
                b += 1
        shared[pair] = total


@cache
def _compiled_shared() -> Any:
    return compile_loop(_shared)


def _shared_numpy(first: Runs, second: Runs, rows: Ints, cols: Ints) -> Ints:
    """The same without a compiler: the pixels of b before a place rise along its spans, so that the pixels of a span
    of a are the difference of two such numbers."""
    shared = np.zeros(len(rows), np.int64)
    for col in np.unique(cols):
        spans = second.of(int(col))
        before = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])
        for pair in np.flatnonzero(cols == col):
            ours = first.of(int(rows[pair])).ravel()
            at = np.searchsorted(spans[:, 0], ours, side="right")
            reached = np.maximum(at - 1, 0)
            within = np.minimum(ours, spans[reached, 1]) - spans[reached, 0]
            counts = np.where(at > 0, before[reached] + within, 0)
            shared[pair] = int((counts[1::2] - counts[0::2]).sum())
    return shared
