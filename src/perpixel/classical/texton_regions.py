"""The second forest: tests on what lies in rectangles around a pixel, so that context can decide.

    sum over a rectangle, placed relative to the pixel, of a texton's count or of a class prior  >  threshold

A split is a row of five whole numbers: plane (classes first, then the counted nodes), row and column of the rectangle's
first pixel relative to the pixel, and its height and width in cells. Height 0 stands for that one pixel, whose class
prior is read at full resolution: without it no answer could be finer than a cell. What lies beyond the border of the
image counts as nothing, so a test also sees where the border is; a single pixel beyond is the nearest within.

Shotton, Johnson, Cipolla, CVPR 2008, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from perpixel.classical.texton_bags import PRIOR_SUM, Bags, Window
from perpixel.classical.texton_trees import Trees
from perpixel.compiled import Workers, compile_loop
from perpixel.errors import InputError

COLUMNS = 5
# Share of the tests that look at a single pixel, and of the others that count a texton.
_SINGLE, _COUNTING = 0.1, 0.25
# A single pixel lies so near.
_NEAR = 10
# Sides of the parts of an image that are answered at a time.
PART = 512
_BAND = 16


def parts_of(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Parts (row0, row1, col0, col1) that make up an image."""
    for row in range(0, height, PART):
        for col in range(0, width, PART):
            yield row, min(height, row + PART), col, min(width, col + PART)


def draw_regions(
    count: int, classes: int, nodes: int, cell: int, reach: int, random: np.random.Generator
) -> np.ndarray:
    """(count, 5) int16 random splits.

    Most rectangles ask for a class prior, the others count a texton. Sides are drawn evenly in their logarithm, and
    places more densely near the pixel; no rectangle goes beyond `reach`.
    """
    most = max(1, reach // cell)
    sides = np.minimum(np.exp(random.uniform(0, np.log(most + 1), (count, 2))).astype(int), most)
    centre = reach * random.uniform(-1, 1, (count, 2)) * random.random((count, 1))
    first = np.clip(np.rint(centre - sides * cell / 2), -reach, reach - sides * cell)
    plane = np.where(
        random.random(count) >= (_COUNTING if nodes else 0), random.integers(0, classes, count),
        classes + random.integers(0, max(1, nodes), count),
    )  # fmt: skip
    single = random.random(count) < _SINGLE
    near = min(_NEAR, reach)
    first[single] = random.integers(-near, near + 1, (int(single.sum()), 2))
    plane[single] = random.integers(0, classes, int(single.sum()))
    sides[single] = 0
    return np.column_stack([plane, first, sides]).astype(np.int16)


def check_regions(splits: Tensor, planes: int, classes: int, cell: int, reach: int) -> None:
    """Refuse splits that look at planes that are not there, or beyond `reach`.

    Raises:
        InputError
    """
    plane, first, sides = splits[:, 0], splits[:, 1:3].int(), splits[:, 3:].int()
    single = (sides == 0).all(1)
    if len(splits) and not (
        ((plane >= 0) & (plane < torch.where(single, classes, planes))).all()
        and ((sides > 0).all(1) | single).all()
        and (first >= -reach).all()
        and (first + sides * cell <= reach).all()
    ):
        raise InputError(
            f"the regions of a texton forest look beyond {reach} pixels or at more than {planes} planes: "
            "the file is damaged, or belongs to a forest with other options"
        )


def shifts_of(splits: np.ndarray, classes: int, cell: int) -> np.ndarray:
    """(splits,) int64: bits by which values are shortened for training, so that 16 suffice."""
    largest = np.where(splits[:, 3] > 0, splits[:, 3].astype(np.int64) * splits[:, 4] * cell**2, 1)
    largest = largest * np.where(splits[:, 0] < classes, PRIOR_SUM, 1)
    return np.array([max(0, int(value).bit_length() - 15) for value in largest], np.int64)


def region_values(bags: Bags, rows: Tensor, cols: Tensor, splits: Tensor) -> Tensor:
    """What splits (..., 5) int64 see at pixels (rows, cols), (...) int64 in the image; int32."""
    plane, row, col, high, wide = splits.unbind(-1)
    row, col = rows + row, cols + col
    _, height, width = bags.priors.shape
    row0, col0 = bags.first_pixel
    at = ((row - row0).clamp(0, height - 1)) * width + (col - col0).clamp(0, width - 1)
    single = bags.priors.reshape(-1)[plane.clamp(max=len(bags.priors) - 1) * (height * width) + at].int()
    _, lines, across = bags.planes.shape
    flat, start = bags.planes.reshape(-1), plane * (lines * across)
    first_row = row.div(bags.cell, rounding_mode="floor") - bags.window.top
    first_col = col.div(bags.cell, rounding_mode="floor") - bags.window.left
    top, bottom = (each.clamp(0, lines - 1) * across for each in (first_row, first_row + high))
    left, right = (each.clamp(0, across - 1) for each in (first_col, first_col + wide))
    inside = flat[start + bottom + right] - flat[start + top + right] - flat[start + bottom + left]
    return torch.where(high == 0, single, inside + flat[start + top + left])


def region_values_at(
    bags: Bags, rows: np.ndarray, cols: np.ndarray, splits: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """(splits, n) int16: what every split sees at n pixels (int64), shortened by `shifts`."""
    out = np.empty((len(splits), len(rows)), np.int16)
    loop = _values_loop()
    if loop:
        loop(*_arrays(bags), rows, cols, splits.astype(np.int64), shifts, out)
        return out
    at = torch.from_numpy(rows), torch.from_numpy(cols)
    for number, split in enumerate(torch.from_numpy(splits).long()):
        out[number] = region_values(bags, *at, split).numpy() >> shifts[number]
    return out


def find_region_probs(bags: Bags, trees: Trees, threads: int = 1) -> Tensor:
    """(K, h, w) float32 class probabilities of the window's own pixels, by compiled loops."""
    window = bags.window
    out = np.empty((trees.probs.shape[1], window.row1 - window.row0, window.col1 - window.col0), np.float32)
    loop = _probs_loop()
    assert loop is not None
    arrays = (
        *_arrays(bags), np.array([window.row0, window.col0]), trees.splits.numpy().astype(np.int64),
        trees.thresholds.numpy(), trees.below.numpy(), trees.roots.numpy(), trees.probs.numpy(),
    )  # fmt: skip
    with Workers(threads) as workers:
        workers.run(
            lambda i: loop(*arrays, i * _BAND, min(out.shape[1], (i + 1) * _BAND), out), -(-out.shape[1] // _BAND)
        )
    return torch.from_numpy(out)


def find_region_probs_by_torch(bags: Bags, trees: Trees) -> Tensor:
    """`find_region_probs` in torch operations, on any device."""
    window, device = bags.window, bags.planes.device
    rows = torch.arange(window.row0, window.row1, device=device)[:, None]
    cols = torch.arange(window.col0, window.col1, device=device)[None]
    leaves = [
        trees.descend(
            root.long().expand(window.row1 - window.row0, window.col1 - window.col0),
            lambda splits: region_values(bags, rows, cols, splits),
        )
        for root in trees.roots
    ]
    return trees.mean_probs(torch.stack(leaves))


def _arrays(bags: Bags) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    window: Window = bags.window
    return (
        bags.planes.numpy(), bags.priors.numpy(),
        np.array([window.top, window.left, *bags.first_pixel, bags.cell], np.int64),
    )  # fmt: skip


@cache
def _values_loop() -> Callable[..., None] | None:
    return compile_loop(_values)


def _values(planes, priors, frame, rows, cols, splits, shifts, out):  # type: ignore[no-untyped-def]
    top, left, row0, col0, cell = frame
    _, lines, across = planes.shape
    _, height, width = priors.shape
    for s in range(len(splits)):
        plane, high, wide = splits[s, 0], splits[s, 3], splits[s, 4]
        for i in range(len(rows)):
            row, col = rows[i] + splits[s, 1], cols[i] + splits[s, 2]
            if high == 0:
                out[s, i] = priors[plane, min(max(row - row0, 0), height - 1), min(max(col - col0, 0), width - 1)]
                continue
            first, start = row // cell - top, col // cell - left
            r0, r1 = min(max(first, 0), lines - 1), min(max(first + high, 0), lines - 1)
            c0, c1 = min(max(start, 0), across - 1), min(max(start + wide, 0), across - 1)
            inside = np.int32(
                planes[plane, r1, c1] - planes[plane, r0, c1] - planes[plane, r1, c0] + planes[plane, r0, c0]
            )
            out[s, i] = inside >> shifts[s]


@cache
def _probs_loop() -> Callable[..., None] | None:
    return compile_loop(_probs)


def _probs(planes, priors, frame, origin, splits, thresholds, children, roots, probs, begin, end, out):  # type: ignore[no-untyped-def]
    top, left, row0, col0, cell = frame
    _, lines, across = planes.shape
    _, height, width = priors.shape
    classes, _, columns = out.shape
    trees, reach = len(roots), np.abs(splits[:, 1:3]).max()
    # Cell of a pixel's row or column, looked up: dividing at every test would cost more than the test.
    lines_at = np.empty(end - begin + 2 * reach, np.int64)
    across_at = np.empty(columns + 2 * reach, np.int64)
    for i in range(len(lines_at)):
        lines_at[i] = (origin[0] + begin - reach + i) // cell - top
    for i in range(len(across_at)):
        across_at[i] = (origin[1] - reach + i) // cell - left
    sums = np.empty((columns, classes), np.float32)
    for line in range(begin, end):
        sums[:] = np.float32(0)
        for tree in range(trees):
            for column in range(columns):
                node = np.int64(roots[tree])
                while children[node, 0] != node:
                    plane, high = splits[node, 0], splits[node, 3]
                    if high == 0:
                        row = min(max(origin[0] + line + splits[node, 1] - row0, 0), height - 1)
                        col = min(max(origin[1] + column + splits[node, 2] - col0, 0), width - 1)
                        value = int(priors[plane, row, col])
                    else:
                        first = lines_at[line - begin + reach + splits[node, 1]]
                        start = across_at[column + reach + splits[node, 2]]
                        r0, r1 = min(max(first, 0), lines - 1), min(max(first + high, 0), lines - 1)
                        c0 = min(max(start, 0), across - 1)
                        c1 = min(max(start + splits[node, 4], 0), across - 1)
                        value = int(
                            np.int32(
                                planes[plane, r1, c1] - planes[plane, r0, c1] - planes[plane, r1, c0]
                                + planes[plane, r0, c0]
                            )
                        )  # fmt: skip
                    node = np.int64(children[node, 1 if value > thresholds[node] else 0])
                for k in range(classes):
                    sums[column, k] += probs[node, k]
        for k in range(classes):
            for column in range(columns):
                out[k, line, column] = sums[column, k] / np.float32(trees)
