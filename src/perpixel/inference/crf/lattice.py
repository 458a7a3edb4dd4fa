"""The permutohedral lattice of an image, built by several threads and filtered row by row (compiled form).

A part is a run of pixels, a strip of the image. Every part is splatted into partial rows of its own, in pixel order;
the partial rows of one lattice point are then added up in the order of the parts. So threads never write to one place,
and the result does not depend on their number. Parts are cut by the size of the image alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from perpixel.compiled import Workers, compiled
from perpixel.inference.crf.coordinates import Keys, elevation
from perpixel.inference.crf.vectors import LANES, add_row, blur_row, clear_row

# Fewer numbers than this are blurred by one thread: waking others takes longer.
_BLUR_ALONE = 1 << 21
# Pixels whose cells are found together.
_BLOCK = 64
_EMPTY = np.zeros(0, np.int64), np.zeros(0, np.int32)
_HASH, _ONE = np.uint64(0x9E3779B97F4A7C15), np.uint64(1)
# A key that none has, and the room of a table over its keys: searches then mostly end where they begin.
_FREE, _SPARSE = np.int64(-(2**63)), 4


@dataclass(frozen=True)
class Lattice:
    """Where the pixels lie, and what is blurred with what.

    Attributes:
        ids: (N * (d + 1),) int32, the partial row of each corner of each pixel's cell.
        weights: (N * (d + 1),) float32, barycentric.
        points: (R,) int32, the lattice point of each partial row.
        part_starts: (parts + 1,) where the partial rows of each part begin.
        starts, rows: the partial rows of point m are rows[starts[m] : starts[m + 1]].
        neighbours: (d + 1, 2, M) int32; M where there is none.
        mass: (R,) float32, the sum of the weights that each partial row gets.
    """

    ids: np.ndarray
    weights: np.ndarray
    points: np.ndarray
    part_starts: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    neighbours: np.ndarray
    mass: np.ndarray

    @property
    def corners(self) -> int:
        return len(self.neighbours)

    @property
    def size(self) -> int:
        """M, the number of lattice points."""
        return len(self.starts) - 1


def build_lattice(
    features: Callable[[int, int], np.ndarray], keys: Keys, edges: np.ndarray, workers: Workers
) -> Lattice:
    """Find the lattice points of N pixels.

    Args:
        features: (begin, end) -> (d, end - begin) float32 of these pixels, in widths of the kernel.
        keys: that reach as far as the features.
        edges: (parts + 1,) int64, the first pixel of each part, then N.
    """
    count, d = int(edges[-1]), len(keys.strides) - 1
    matrix = (elevation(d) / (d + 1)).astype(np.float32)
    ids = np.empty(count * (d + 1), np.int32)
    weights = np.empty(count * (d + 1), np.float32)

    def one(part: int) -> tuple[np.ndarray, np.ndarray]:
        begin, end = int(edges[part]), int(edges[part + 1])
        part_keys, part_mass, size = _embed(
            features(begin, end), matrix, keys.strides, keys.strides.sum(), begin, *_EMPTY, ids, weights
        )
        return part_keys[:size], part_mass[:size]

    found = workers.run(one, len(edges) - 1)
    part_starts = np.cumsum([0, *(len(part_keys) for part_keys, _ in found)])
    all_keys = np.concatenate([part_keys for part_keys, _ in found])
    mass = np.concatenate([part_mass for _, part_mass in found])

    def shift(part: int) -> None:
        ids[edges[part] * (d + 1) : edges[part + 1] * (d + 1)] += np.int32(part_starts[part])

    workers.run(shift, len(edges) - 1)
    points, own_keys, size, table_keys, table_points = _merge(all_keys, *_EMPTY)
    own_keys = own_keys[:size]
    starts, rows = _by_point(points, size)
    neighbours = np.empty((d + 1, 2, size), np.int32)
    steps = keys.steps()
    workers.run(lambda j: _find_neighbours(own_keys, steps[j], table_keys, table_points, neighbours[j]), d + 1)
    return Lattice(ids, weights, points, part_starts, starts, rows, neighbours, mass)


@njit(inline="always")
def _slot(key, bits):  # type: ignore[no-untyped-def]
    """Where a key's search begins in a table of 2^bits; unsigned, so that numba does not look whether it is below 0."""
    return (np.uint64(key) * _HASH) >> np.uint64(64 - bits)


@compiled
def _grow(keys, points, bits):  # type: ignore[no-untyped-def]
    """A table with four times the room: the old one's content, or an empty one where that is of length 0."""
    new_keys, new_points = np.empty(4 << bits, np.int64), np.empty(4 << bits, np.int32)
    mask = np.uint64((4 << bits) - 1)
    for i in range(4 << bits):
        new_keys[i] = _FREE
    for old in range(len(points)):
        if keys[old] != _FREE:
            at = _slot(keys[old], bits + 2)
            while new_keys[at] != _FREE:
                at = (at + _ONE) & mask
            new_keys[at], new_points[at] = keys[old], points[old]
    return new_keys, new_points


@compiled
def _lengthen(keys, mass, size):  # type: ignore[no-untyped-def]
    """Room for twice as many points of a part, zero where new."""
    new_keys, new_mass = np.zeros(2 * size, np.int64), np.zeros(2 * size, np.float32)
    for i in range(min(size, len(keys))):
        new_keys[i], new_mass[i] = keys[i], mass[i]
    return new_keys, new_mass


@compiled
def _embed(  # type: ignore[no-untyped-def]
    features, matrix, strides, all_strides, first, no_keys, no_points, ids, weights
):  # fmt: skip
    """Cells of the pixels from `first` on: fills ids (from 0 on) and weights.

    Returns:
        The keys in that order and the sums of the weights, both with room left over, and their number.
    """
    d, count = features.shape
    corners = d + 1
    bits, size, mask = np.int64(12), np.int64(0), np.uint64((1 << 12) - 1)
    table_keys, table_points = _grow(no_keys, no_points, bits - 2)
    own_keys, mass = _lengthen(no_keys, weights, np.int64(1024))
    rest, whole = np.empty((corners, _BLOCK), np.float32), np.empty((corners, _BLOCK), np.int32)
    rank, excess = np.empty((corners, _BLOCK), np.int32), np.empty(_BLOCK, np.int32)
    by_rank, stride_by_rank = np.empty(corners, np.float32), np.empty(corners, np.int64)
    for begin in range(0, count, _BLOCK):
        block = min(_BLOCK, count - begin)
        _cells(features, matrix, begin, block, rest, whole, rank, excess)
        for x in range(block):
            key = np.int64(0)
            for i in range(corners):
                key += whole[i, x] * strides[i]
                by_rank[rank[i, x]] = rest[i, x]
                stride_by_rank[rank[i, x]] = strides[i]
            key *= corners
            start = (first + begin + x) * corners
            for k in range(corners):
                at = _slot(key, bits)
                while table_keys[at] != key and table_keys[at] != _FREE:
                    at = (at + _ONE) & mask
                if table_keys[at] == key:
                    point = table_points[at]
                else:
                    if size == len(own_keys):
                        own_keys, mass = _lengthen(own_keys, mass, size)
                    point = np.int32(size)
                    table_keys[at], table_points[at], own_keys[size] = key, point, key
                    size += 1
                    if _SPARSE * size > (1 << bits):
                        table_keys, table_points = _grow(table_keys, table_points, bits)
                        bits += 2
                        mask = np.uint64((1 << bits) - 1)
                if k:
                    share = by_rank[d - k] - by_rank[corners - k]
                else:
                    share = np.float32(1) + by_rank[d] - by_rank[0]
                ids[start + k] = point
                weights[start + k] = share
                mass[point] += share
                # The next corner is one further along all axes, but d + 1 less along the one of rank d - k.
                key += all_strides - corners * stride_by_rank[d - k]
    return own_keys, mass, size


@compiled
def _cells(features, matrix, begin, block, rest, whole, rank, excess):  # type: ignore[no-untyped-def]
    """The cell of each pixel of a block: coordinates over d + 1 of its corner 0, what is left, and the order of that.

    Loops over the pixels are the inner ones, for they become vector instructions.
    """
    corners, d = matrix.shape
    for x in range(block):
        excess[x] = 0
    for i in range(corners):
        rest_i, whole_i, rank_i = rest[i], whole[i], rank[i]
        for x in range(block):
            rest_i[x] = 0
        for j in range(max(i - 1, 0), d):
            factor, values = matrix[i, j], features[j, begin : begin + block]
            for x in range(block):
                rest_i[x] += factor * values[x]
        for x in range(block):
            nearest = np.floor(rest_i[x] + np.float32(0.5))
            rest_i[x] -= nearest
            whole_i[x] = np.int32(nearest)
            excess[x] += whole_i[x]
            rank_i[x] = 0
    for i in range(d):
        for j in range(i + 1, corners):
            rest_i, rest_j, rank_i, rank_j = rest[i], rest[j], rank[i], rank[j]
            for x in range(block):
                less = np.int32(rest_i[x] < rest_j[x])
                rank_i[x] += less
                rank_j[x] += np.int32(1) - less
    # Back into the plane, where coordinates add up to zero.
    for i in range(corners):
        rest_i, whole_i, rank_i = rest[i], whole[i], rank[i]
        for x in range(block):
            moved = rank_i[x] + excess[x]
            turn = np.int32(moved < 0) - np.int32(moved > d)
            rank_i[x] = moved + turn * np.int32(corners)
            whole_i[x] += turn
            rest_i[x] -= np.float32(turn)


@compiled
def _merge(all_keys, no_keys, no_points):  # type: ignore[no-untyped-def]
    """Number the different keys in the order of their first appearance; also the table that finds them."""
    bits, size, mask = np.int64(12), np.int64(0), np.uint64((1 << 12) - 1)
    table_keys, table_points = _grow(no_keys, no_points, bits - 2)
    points, own_keys = np.empty(len(all_keys), np.int32), np.empty(len(all_keys), np.int64)
    for row in range(len(all_keys)):
        key = all_keys[row]
        at = _slot(key, bits)
        while table_keys[at] != key and table_keys[at] != _FREE:
            at = (at + _ONE) & mask
        if table_keys[at] == _FREE:
            table_keys[at], table_points[at], own_keys[size] = key, size, key
            size += 1
        points[row] = table_points[at]
        if _SPARSE * size > (1 << bits):
            table_keys, table_points = _grow(table_keys, table_points, bits)
            bits += 2
            mask = np.uint64((1 << bits) - 1)
    return points, own_keys, size, table_keys, table_points


@compiled
def _by_point(points, size):  # type: ignore[no-untyped-def]
    """The rows of each point, in order: where they start, and which."""
    starts, free, rows = np.zeros(size + 1, np.int64), np.empty(size, np.int64), np.empty(len(points), np.int64)
    for row in range(len(points)):
        starts[points[row] + 1] += 1
    for point in range(size):
        free[point] = starts[point]
        starts[point + 1] += starts[point]
    for row in range(len(points)):
        rows[free[points[row]]] = row
        free[points[row]] += 1
    return starts, rows


@compiled
def _find_neighbours(own_keys, step, table_keys, table_points, neighbours):  # type: ignore[no-untyped-def]
    """neighbours[0 and 1] = the points one step back and one step on along a direction; len(own_keys): none."""
    none, mask, bits = len(own_keys), np.uint64(len(table_keys) - 1), 0
    while (1 << bits) < len(table_keys):
        bits += 1
    for point in range(none):
        neighbours[0, point] = none
    for point in range(none):
        key = own_keys[point] + step
        at = _slot(key, bits)
        while table_keys[at] != key and table_keys[at] != _FREE:
            at = (at + _ONE) & mask
        neighbours[1, point] = none
        if table_keys[at] == key:
            neighbours[1, point] = table_points[at]
            neighbours[0, table_points[at]] = point


def blur(lattice: Lattice, partial: np.ndarray, table: np.ndarray, width: int, workers: Workers) -> np.ndarray:
    """Add up the partial rows and blur along every direction.

    Args:
        partial: flat, rows of `width`, at least R and M + 1 of them; overwritten.
        table: flat, M + 1 rows; overwritten.
    Returns:
        `partial` or `table`, whose first M rows hold the result.
    """
    size, work = lattice.size, lattice.size * width
    pieces = 1 if work < _BLUR_ALONE else 4 * workers.threads
    ends = [size * i // pieces for i in range(pieces + 1)]
    workers.run(
        lambda i: _add_up(partial, table, lattice.starts, lattice.rows, width, ends[i], ends[i + 1]), pieces
    )  # fmt: skip
    source, target = table, partial
    for both in lattice.neighbours:
        for each in (source, target):
            each[size * width : (size + 1) * width] = 0
        here, there = source, target  # for the closure below
        workers.run(lambda i: _blur(there, here, both, width, ends[i], ends[i + 1]), pieces)  # noqa: B023
        source, target = target, source
    return source


@compiled
def _add_up(partial, table, starts, rows, width, begin, end):  # type: ignore[no-untyped-def]
    clear_row(table, begin * width, (end - begin) * width)
    for point in range(begin, end):
        for entry in range(starts[point], starts[point + 1]):
            add_row(table, point * width, np.float32(1), partial, rows[entry] * width, width)


@compiled
def _blur(target, source, neighbours, width, begin, end):  # type: ignore[no-untyped-def]
    for point in range(begin, end):
        left, right = np.int64(neighbours[0, point]), np.int64(neighbours[1, point])
        blur_row(target, source, point * width, left * width, right * width, width)


def filter_ones(lattice: Lattice, count: int, edges: np.ndarray, workers: Workers) -> np.ndarray:
    """(N,) float32: what splat, blur and slice make of an image of ones."""
    rows = max(len(lattice.points), lattice.size + 1)
    partial, table = np.zeros(rows * LANES, np.float32), np.empty((lattice.size + 1) * LANES, np.float32)
    partial[: len(lattice.points) * LANES : LANES] = lattice.mass
    sums = blur(lattice, partial, table, LANES, workers)
    spread = sums[::LANES][lattice.points]
    result = np.empty(count, np.float32)
    workers.run(
        lambda i: _slice_one(spread, lattice.ids, lattice.weights, lattice.corners, result, edges[i], edges[i + 1]),
        len(edges) - 1,
    )
    return result


@compiled
def _slice_one(spread, ids, weights, corners, result, begin, end):  # type: ignore[no-untyped-def]
    for pixel in range(begin, end):
        total = np.float32(0)
        for entry in range(pixel * corners, (pixel + 1) * corners):
            total += weights[entry] * spread[ids[entry]]
        result[pixel] = total
