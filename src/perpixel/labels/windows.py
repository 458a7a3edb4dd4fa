"""Masks in windows of an image: cut to a window, or laid from a window into the image. No mask is drawn."""

from __future__ import annotations

import numpy as np

from perpixel.labels.rle import Ints, Runs

# x0 y0 x1 y1 in whole pixels, x1 and y1 one past the last.
Window = tuple[int, int, int, int]


def cut_runs(masks: Runs, window: Window) -> Runs:
    """The same objects of the same image, less what lies outside the window; some may be empty then."""
    return _shifted(masks, window, (0, 0), masks.size)


def place_runs(masks: Runs, corner: tuple[int, int], size: tuple[int, int]) -> Runs:
    """The same objects in an image of `size` in which their own first pixel lies at (row, col) = `corner`.

    What reaches beyond is cut off: a negative corner takes a window out of an image.
    """
    row, col = corner
    inside = (max(0, -col), max(0, -row), min(masks.size[1], size[1] - col), min(masks.size[0], size[0] - row))
    return _shifted(masks, inside, corner, size)


def _shifted(masks: Runs, window: Window, corner: tuple[int, int], size: tuple[int, int]) -> Runs:
    """What lies in `window`, moved by `corner` (rows, columns) into an image of `size`."""
    x0, y0, x1, y1 = window
    owner, pieces = masks._by_column()
    col, height = pieces[:, 0] // max(1, masks.size[0]), masks.size[0]
    begin = np.maximum(pieces[:, 0] - col * height, y0)
    end = np.minimum(pieces[:, 1] - col * height, y1)
    inside = (col >= x0) & (col < x1) & (end > begin)
    owner, base = owner[inside], (col[inside] + corner[1]) * size[0] + corner[0]
    return _joined(size, len(masks), owner, base + begin[inside], base + end[inside])


def _joined(size: tuple[int, int], count: int, owner: Ints, begin: Ints, end: Ints) -> Runs:
    """Sorted spans, of which those of one object that touch (from one column to the next) become one."""
    is_first = np.ones(len(owner), bool)
    is_first[1:] = (begin[1:] != end[:-1]) | (owner[1:] != owner[:-1])
    first = np.flatnonzero(is_first)
    last = np.concatenate([first[1:], [len(owner)]])[: len(first)] - 1
    starts = np.searchsorted(owner[first], np.arange(count + 1), side="left").astype(np.int64)
    return Runs((int(size[0]), int(size[1])), np.stack([begin[first], end[last]], axis=1).astype(np.int64), starts)
