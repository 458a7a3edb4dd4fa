"""Outlines and run lengths to pixels.

A pixel belongs to a polygon when its centre does: `(col + 0.5, row + 0.5)` in the coordinates of COCO and LabelMe,
where the image spans 0..W by 0..H. So polygons that share a border share no pixel and leave none out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perpixel.errors import InputError


def fill_polygon(mask: np.ndarray, points: np.ndarray) -> None:
    """Set the pixels inside one closed polygon, by the even-odd rule; parts outside the image are cut off.

    Args:
        mask: (H, W) bool, changed in place.
        points: (N, 2) float, x then y, in pixels.
    """
    height, width = mask.shape
    start, end = points, np.roll(points, -1, axis=0)
    top = np.minimum(start[:, 1], end[:, 1])
    bottom = np.maximum(start[:, 1], end[:, 1])
    # An edge crosses the centre line of row r when top <= r + 0.5 < bottom.
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom - 0.5), 0, height).astype(np.int64)
    crossings = last - first
    total = int(crossings.sum())
    if total == 0:
        return
    edge = np.repeat(np.arange(len(points)), crossings)
    rows = first[edge] + np.arange(total) - np.repeat(np.cumsum(crossings) - crossings, crossings)
    rise = end[edge, 1] - start[edge, 1]
    x = start[edge, 0] + (rows + 0.5 - start[edge, 1]) / rise * (end[edge, 0] - start[edge, 0])
    cols = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    row0, row1 = int(rows.min()), int(rows.max()) + 1
    col0, col1 = int(cols.min()), int(cols.max())
    if col1 == col0:
        return
    box = (row1 - row0, col1 - col0 + 1)
    toggles = np.bincount((rows - row0) * box[1] + cols - col0, minlength=box[0] * box[1]).reshape(box)
    mask[row0:row1, col0:col1] |= (np.cumsum(toggles, axis=1) & 1).astype(bool)[:, :-1]


def circle_points(x: float, y: float, radius: float, corners: int = 96) -> np.ndarray:
    """A circle as an (N, 2) polygon of the same area."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    # The inscribed polygon is smaller than the circle; the longer radius makes the areas equal.
    reach = radius * np.sqrt(2 * np.pi / (corners * np.sin(2 * np.pi / corners)))
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)


def read_run_text(text: str) -> list[int]:
    """COCO's compressed run lengths to plain counts.

    Five bits to a character (from '0'), low bits first, bit 32 says that more follow; from the fourth count on, the
    difference to the count two before is stored.

    Raises:
        InputError: a character outside the code, or a text that ends within a count.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise InputError(
                f"run lengths hold the character {character!r}, the annotation is damaged: export it again"
            )
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError("run lengths end in the middle of a count, the annotation is damaged: export it again")
    return counts


def fill_runs(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Run lengths to a mask: off, on, off, ... down the columns.

    Returns:
        (H, W) bool.
    Raises:
        InputError: a negative count, or counts that do not add up to H * W.
    """
    height, width = size
    runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise InputError(
            f"run lengths add up to {int(runs.sum())}, the image has {height} x {width} = {height * width} pixels: "
            "export the annotation again"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def to_runs(mask: np.ndarray) -> tuple[int, ...]:
    """A (H, W) bool mask to plain run lengths down the columns."""
    flat = mask.T.ravel()
    turns = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], turns, [flat.size]]))
    start = (0,) if flat.size and flat[0] else ()
    return (*start, *(int(count) for count in counts))
