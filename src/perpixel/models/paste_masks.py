"""Masks of 28x28 pixels that a net gives for boxes -> masks of the whole image, as runs: no image is ever filled.

A column of a pasted mask is linear between the rows of the small mask, so that it has few runs however long it is; a
thousand objects cost a buffer of one.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perpixel.compiled import compile_loop
from perpixel.labels import Runs
from perpixel.labels.rle import spans_of_mask

THRESHOLD = 0.5


class Side(NamedTuple):
    """Where a small mask lies along one axis: pixels first..last - 1, pixel p at p * scale + shift of its cells."""

    first: int
    last: int
    scale: float
    shift: float


def paste_masks(masks: Any, boxes: Any, size: tuple[int, int], *, aligned: bool = False) -> Runs:
    """The pixels of each object where its mask, interpolated linearly over its box, is 0.5 or more.

    Args:
        masks: (N, m, m) probabilities; beyond its border a mask falls to 0 within one cell.
        boxes: (N, 4) x0 y0 x1 y1 in pixels of the image; they may reach beyond it.
        size: (H, W) of the image.
        aligned: boxes are taken as they are; False rounds them to whole pixels as torchvision does.
    """
    small = np.pad(np.asarray(masks, np.float32), ((0, 0), (1, 1), (1, 1)))
    parts = []
    for mask, box in zip(small, np.asarray(boxes, np.float32), strict=True):
        cells = mask.shape[0]
        cols, rows = (
            _side(box[axis], box[axis + 2], cells, side, aligned) for axis, side in enumerate((size[1], size[0]))
        )
        parts.append(_paste(mask, rows, cols, size))
    return Runs.join(size, parts)


def _side(low: np.float32, high: np.float32, cells: int, side: int, aligned: bool) -> Side:
    """One axis of a box, whose mask has `cells` cells of which the outer two are padding."""
    inner = cells - 2
    if aligned:
        width = max(float(high) - float(low), 1e-6)
        scale = inner / width
        first, last = math.floor(float(low) - width / inner), math.ceil(float(high) + width / inner)
        shift = (0.5 - float(low)) * scale - 0.5 + 1
    else:
        # In the precision of torchvision, since what follows is cut to whole numbers.
        half = (high - low) * np.float32(0.5) * np.float32(cells / inner)
        middle = (high + low) * np.float32(0.5)
        first, last = int(middle - half), int(middle + half) + 1
        scale = cells / max(last - first, 1)
        shift = (0.5 - first) * scale - 0.5
        last = max(last, first + 1)
    return Side(max(first, 0), min(last, side), scale, shift)


def _paste(mask: NDArray[np.float32], rows: Side, cols: Side, size: tuple[int, int]) -> NDArray[np.int64]:
    """Spans of one object."""
    if rows.first >= rows.last or cols.first >= cols.last:
        return np.zeros((0, 2), np.int64)
    kernel = _compiled_paste()
    if kernel is None:
        return spans_of_mask(_interpolated(mask, rows, cols) >= THRESHOLD, (rows.first, cols.first), size)
    # Between two rows of cells a column passes the threshold once at most.
    most = min((rows.last - rows.first + 1) // 2, mask.shape[0] // 2 + 1)
    spans = np.empty((most * (cols.last - cols.first), 2), np.int64)
    made = kernel(mask, *rows, *cols, size[0], THRESHOLD, spans)
    return spans[:made].copy()


def _interpolated(mask: NDArray[np.float32], rows: Side, cols: Side) -> NDArray[np.float64]:
    """(rows, cols) float64 of the pixels of the box."""
    places = []
    for side in (rows, cols):
        place = np.clip(np.arange(side.first, side.last) * side.scale + side.shift, 0.0, mask.shape[0] - 1.0)
        low = place.astype(np.int64)
        places.append((low, np.minimum(low + 1, mask.shape[0] - 1), place - low))
    (top, below, down), (left, right, along) = places
    table = mask.astype(np.float64)
    columns = table[:, left] + along * (table[:, right] - table[:, left])
    return columns[top] + down[:, None] * (columns[below] - columns[top])


def _paste_loop(
    mask: Any,
    row0: int,
    row1: int,
    row_scale: float,
    row_shift: float,
    col0: int,
    col1: int,
    col_scale: float,
    col_shift: float,
    height: int,
    threshold: float,
    spans: Any,
) -> int:
    cells = mask.shape[0]
    column = np.zeros(cells, np.float64)
    made = 0
    for col in range(col0, col1):
        place = min(max(col * col_scale + col_shift, 0.0), cells - 1.0)
        left = int(place)
        along, right = place - left, min(left + 1, cells - 1)
        highest = 0.0
        for cell in range(cells):
            first, second = float(mask[cell, left]), float(mask[cell, right])
            column[cell] = first + along * (second - first)
            highest = max(highest, column[cell])
        if highest < threshold:
            continue
        inside = False
        for row in range(row0, row1):
            place = min(max(row * row_scale + row_shift, 0.0), cells - 1.0)
            top = int(place)
            below = min(top + 1, cells - 1)
            is_on = column[top] + (place - top) * (column[below] - column[top]) >= threshold
            if is_on and not inside:
                start = col * height + row
                if made == 0 or spans[made - 1, 1] != start:  # else it goes on from the column before
                    spans[made, 0] = start
                    made += 1
            if is_on:
                spans[made - 1, 1] = col * height + row + 1
            inside = is_on
    return made


@cache
def _compiled_paste() -> Any:
    return compile_loop(_paste_loop)
