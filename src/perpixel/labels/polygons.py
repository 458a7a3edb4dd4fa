"""Outlines to pixels and back, in the coordinates of COCO and LabelMe: the image spans 0..W by 0..H, and the centre of
a pixel lies at (col + 0.5, row + 0.5).

Two rules say which pixels are inside. "centre": those whose centre is, exactly. "coco": as the tools of COCO do it,
which round all points to fifths of a pixel first, so that scores are theirs to the last pixel. By both, polygons that
share a border share no pixel and leave none out, and a polygon that crosses itself is filled by the even-odd rule: a
hole may be drawn into an outline by way of a bridge of no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.errors import InputError
from perpixel.labels.rle import Ints, Runs, merge_spans

Points = NDArray[np.float64]
RULES = ("centre", "coco")
FIFTHS = 5
# Points further from the image than this many of its sides are pulled in, so that no walk is endless.
FARTHEST = 4


def polygon_spans(polygons: Sequence[ArrayLike], size: tuple[int, int], *, rule: str = "centre") -> Ints:
    """The spans of the union of closed polygons; what reaches beyond the image is cut off.

    Args:
        polygons: each (P, 2) x, y in pixels, or P * 2 numbers x, y, x, y, ... as COCO writes them.
        size: (H, W).
        rule: "centre" or "coco".
    Returns:
        (m, 2) spans, as in `Runs`; none for what holds no pixel.
    Raises:
        InputError: no pairs of finite numbers, an unknown rule.
    """
    if rule not in RULES:
        raise InputError(f"rule '{rule}': choose centre or coco")
    inside = _inside_coco if rule == "coco" else _inside_centre
    far = FARTHEST * max(*size, 256)
    parts = [inside(np.clip(_points(polygon), -far, size[0] + size[1] + far), size) for polygon in polygons]
    return parts[0] if len(parts) == 1 else merge_spans(np.concatenate(parts) if parts else np.zeros((0, 2)))


def _points(polygon: ArrayLike) -> Points:
    try:
        numbers = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("a polygon holds something else than pairs of numbers: draw it again") from error
    if numbers.ndim > 2 or numbers.size % 2 or (numbers.ndim == 2 and numbers.shape[1] != 2):
        raise InputError("a polygon holds something else than pairs of numbers: draw it again")
    if not np.isfinite(numbers).all():
        raise InputError("a polygon holds numbers that are not finite: draw it again")
    return numbers.reshape(-1, 2)


def _between(turns: Ints) -> Ints:
    """Places at which a walk down the columns enters and leaves the mask, in any order -> spans."""
    return merge_spans(np.sort(turns).reshape(-1, 2))


def _inside_centre(points: Points, size: tuple[int, int]) -> Ints:
    height, width = size
    start, end = points, np.roll(points, -1, axis=0)
    left, right = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    # An edge crosses the centre line of column c when left <= c + 0.5 < right.
    first = np.clip(np.ceil(left - 0.5), 0, width).astype(np.int64)
    crossings = np.clip(np.ceil(right - 0.5), 0, width).astype(np.int64) - first
    edge = np.repeat(np.arange(len(points)), crossings)
    cols = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(crossings) - crossings, crossings)
    run = end[edge, 0] - start[edge, 0]
    y = start[edge, 1] + (cols + 0.5 - start[edge, 0]) / run * (end[edge, 1] - start[edge, 1])
    rows = np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64)
    return _between(cols * height + rows)


def _inside_coco(points: Points, size: tuple[int, int]) -> Ints:
    """Each edge is walked pixel by pixel on a grid of fifths; a step from fifth 5c + 2 to 5c + 3, or back, crosses the
    centre of column c, and turns the mask on or off below the higher (smaller y) of its two ends."""
    height, width = size
    grid = (FIFTHS * points + 0.5).astype(np.int64)  # towards zero, as in C
    cols, fifths = _crossings(grid, np.roll(grid, -1, axis=0))
    inside = (cols >= 0) & (cols < width)
    rows = np.ceil(np.clip((fifths[inside] + 0.5) / FIFTHS - 0.5, 0, height)).astype(np.int64)
    return _between(cols[inside] * height + rows)


def _crossings(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Column and height in fifths of each crossing of a column's centre, edge by edge."""
    span = np.abs(end - start)
    is_flat = span[:, 0] >= span[:, 1]
    steps = span.max(axis=1)
    # Both ways along an edge give the same points: it is walked upwards on its longer axis.
    along = np.where(is_flat, 0, 1)
    rows = np.arange(len(start))
    swap = start[rows, along] > end[rows, along]
    low, high = np.where(swap[:, None], end, start), np.where(swap[:, None], start, end)
    edge = np.repeat(rows, steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    across = 1 - along
    slope = (high[rows, across] - low[rows, across]) / np.maximum(steps, 1)
    even = low[rows, along][edge] + step
    rounded = (low[rows, across][edge] + slope[edge] * step + 0.5).astype(np.int64)
    x = np.where(is_flat[edge], even, rounded)
    y = np.where(is_flat[edge], rounded, even)
    moves = np.flatnonzero((edge[1:] == edge[:-1]) & (x[1:] != x[:-1]))
    left = np.minimum(x[moves], x[moves + 1])
    is_centre = left % FIFTHS == FIFTHS // 2
    moves, left = moves[is_centre], left[is_centre]
    return left // FIFTHS, np.minimum(y[moves], y[moves + 1])


def outline_polygons(masks: Runs, index: int) -> list[Points]:
    """The outline of an object along the edges of its pixels: outer ones and holes, each (P, 2) x, y.

    Only corners are listed. Filled together by the even-odd rule they give the mask back, exactly.
    """
    mask, (row, col) = masks.crop(index)
    if not mask.size:
        return []
    padded = np.pad(mask, 1).astype(np.int8)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    is_cross = (a == d) & (b == c) & (a != b)  # two pixels meet at a corner: it belongs to both outlines
    is_corner = (a + b + c + d) % 2 == 1
    rows, cols = np.nonzero(is_corner | is_cross)
    twice = is_cross[rows, cols]
    rows, cols = np.repeat(rows, 1 + twice), np.repeat(cols, 1 + twice)
    loops = _close(_partners(rows, cols), _partners(cols, rows))
    return [np.stack([cols[loop] + col, rows[loop] + row], axis=1).astype(np.float64) for loop in loops]


def _partners(line: Any, place: Any) -> Ints:
    """The corner at the other end of each corner's edge along `line`: on every grid line they come in pairs."""
    order = np.lexsort((np.arange(len(line)), place, line))
    partner = np.empty(len(line), np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _close(across: Ints, down: Ints) -> list[list[int]]:
    """Follow edges, across and down in turns, until all corners are in a loop."""
    loops, seen = [], np.zeros(len(across), bool)
    step_across, step_down = across.tolist(), down.tolist()
    for first in range(len(across)):
        if seen[first]:
            continue
        loop: list[int] = []
        at = first
        while not loop or at != first:
            loop += [at, step_across[at]]
            at = step_down[loop[-1]]
        seen[loop] = True
        loops.append(loop)
    return loops
