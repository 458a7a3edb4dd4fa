"""Mean field over one strip of an image at a time: everything of an iteration that concerns a pixel, in one pass.

A pass reads what the kernels made of the last marginals (the blurred lattice, and the marginals filtered along all axes
of the grid but the first), forms the new marginals row by row while they are in the cache, and at once splats them into
the lattice and filters them for the next pass. The marginals themselves are never stored: of an iteration, the logits
and the filtered marginals are read and the next ones written, nothing else of that size.

The grid is (depth, height, width); a 2-D image is (height, 1, width), so that its rows are what threads share out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perpixel.compiled import Workers, compiled
from perpixel.inference.crf.lattice import Lattice, blur
from perpixel.inference.crf.vectors import (
    LANES,
    OUTPUTS,
    add_gathered,
    add_row,
    clear_row,
    copy_row,
    filter_1x4,
    filter_4x4,
    filter_4x8,
    filter_4x16,
    scale_row,
    softmax_row,
)

_NOTHING = np.zeros(0, np.float32)
_NO_IDS = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Kernel:
    """What marginals are multiplied by before and after a kernel: (N,) float32 each, its weight and normalisation."""

    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class GridGaussian(Kernel):
    """A Gaussian over positions, cut at three widths: `taps` and `radii` of the three axes.

    Taps are padded by OUTPUTS - 1 zeros on both sides.
    """

    taps: tuple[np.ndarray, np.ndarray, np.ndarray]
    radii: tuple[int, int, int]


@dataclass(frozen=True)
class LatticeGaussian(Kernel):
    """A Gaussian over positions and colours."""

    lattice: Lattice


def gaussian_taps(width: float, side: int) -> tuple[np.ndarray, int]:
    """exp(-x^2 / (2 width^2)) for |x| up to three widths, padded for the filters; and the radius."""
    radius = min(int(np.ceil(3 * width)), side - 1)
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    return np.pad(window, OUTPUTS - 1).astype(np.float32), radius


def filtered_ones(width: float, side: int) -> np.ndarray:
    """(side,) float64: what the window of `gaussian_taps` makes of ones along one axis."""
    taps, radius = gaussian_taps(width, side)
    window = taps[OUTPUTS - 1 : 1 - OUTPUTS].astype(np.float64)
    return np.convolve(np.ones(side), window)[radius : radius + side]


def mean_field(
    logits: np.ndarray,
    shape: tuple[int, int, int],
    num_labels: int,
    edges: np.ndarray,
    iterations: int,
    grid: GridGaussian | None,
    kernel: LatticeGaussian | None,
    mixing: np.ndarray | None,
    workers: Workers,
    on_step: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Marginals after some iterations.

    Args:
        logits: flat (N * width,) float32, -unary, padded labels far below.
        edges: (parts + 1,) int64 pixels, whole slabs of the first axis each.
        mixing: flat (width * width,) minus the compatibility of labels, or None where alike ones attract (Potts).
        on_step: called with (iteration, (K, N) marginals), first with (0, the softmax of the logits).
    Returns:
        (K, N) float32.
    """
    count = shape[0] * shape[1] * shape[2]
    width = len(logits) // count
    parts = len(edges) - 1
    state = _State(shape, width, parts, grid, kernel)
    slabs = edges // (shape[1] * shape[2])
    out = np.empty((num_labels, count), np.float32)
    taps = grid.taps if grid else (np.zeros(1, np.float32),) * 3
    radii = np.array(grid.radii if grid else (0, 0, 0))

    for iteration in range(iterations + 1):
        last = iteration == iterations
        write = last or on_step is not None

        def one(part: int, iteration: int = iteration, last: bool = last, write: bool = write) -> None:
            _pass(
                logits, np.array(shape), width, slabs[part], slabs[part + 1], iteration > 0, not last,
                grid is not None, state.now, state.next, grid.before if grid else _NOTHING,
                grid.after if grid else _NOTHING, taps[0], taps[1], taps[2], radii,
                state.corners, state.ids, state.weights, state.points, state.part_starts[part],
                state.part_starts[part + 1], state.table, state.spread, state.partial,
                kernel.before if kernel else _NOTHING, kernel.after if kernel else _NOTHING,
                _NOTHING if mixing is None else mixing, out.reshape(-1) if write else _NOTHING, num_labels,
            )  # fmt: skip

        workers.run(one, parts)
        if not last:
            state.turn(workers)
        if on_step:
            on_step(iteration, out.copy() if not last else out)
    return out


class _State:
    """The arrays that one pass hands to the next."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        parts: int,
        grid: GridGaussian | None,
        kernel: LatticeGaussian | None,
    ) -> None:
        self.width = width
        self.now = self.next = _NOTHING
        if grid:  # zeros above the first and below the last slab stand for what lies outside the image
            length = (shape[0] + 2 * grid.radii[0]) * shape[1] * shape[2] * width
            self.now, self.next = np.zeros(length, np.float32), np.zeros(length, np.float32)
        self.lattice = kernel.lattice if kernel else None
        self.corners, self.ids, self.weights = 0, _NO_IDS, _NOTHING
        self.points, self.part_starts = _NO_IDS, np.zeros(parts + 1, np.int64)
        self.table = self.spread = self.partial = self._spare = _NOTHING
        if self.lattice:
            lattice = self.lattice
            self.corners, self.ids, self.weights = lattice.corners, lattice.ids, lattice.weights
            self.points, self.part_starts = lattice.points, lattice.part_starts
            rows = max(len(lattice.points), lattice.size + 1)
            self.partial, self._spare = (np.zeros(rows * width, np.float32) for _ in range(2))
            self.spread = np.empty(len(lattice.points) * width, np.float32)
            self.table = self._spare

    def turn(self, workers: Workers) -> None:
        """After a pass: its filtered marginals become those that are read, its splats are blurred."""
        self.now, self.next = self.next, self.now
        if self.lattice:
            self.table = blur(self.lattice, self.partial, self._spare, self.width, workers)
            if self.table is self.partial:
                self.partial, self._spare = self._spare, self.partial


@compiled
def _pass(  # type: ignore[no-untyped-def]
    logits, shape, width, first, stop, is_read, is_written,
    has_grid, now, after, grid_before, grid_after, taps_z, taps_y, taps_x, radii,
    corners, ids, weights, points, row_begin, row_end, table, spread, partial, lattice_before, lattice_after,
    mixing, out, num_labels,
):  # fmt: skip
    """One iteration over the slabs first..stop. `is_read`: there are messages; `is_written`: a further pass follows."""
    height, across = shape[1], shape[2]
    row_length, slab_length = across * width, height * across * width
    margin = radii[2] * width
    row = np.zeros(row_length + 2 * margin, np.float32)
    message = np.empty(OUTPUTS * row_length if has_grid else 0, np.float32)
    mixed = np.empty(row_length if len(mixing) else 0, np.float32)
    slab = np.zeros((height + 2 * radii[1]) * row_length if height > 1 and has_grid else 0, np.float32)
    if corners:
        _start_rows(points, row_begin, row_end, table, spread, partial, width, is_read)
    for top in range(first, stop, OUTPUTS):
        bottom = min(top + OUTPUTS, stop)
        for y in range(height):
            if has_grid and is_read:
                start, here = top * slab_length + y * row_length, np.int64(0)  # a literal 0 would compile it once more
                _filter(message, here, row_length, now, start, slab_length, row_length, bottom - top, taps_z, radii[0])
            for z in range(top, bottom):
                pixel = (z * height + y) * across
                _form_row(
                    row, margin, logits, pixel, across, width, is_read, has_grid, message, (z - top) * row_length,
                    grid_after, corners, spread, ids, weights, lattice_after, mixing, mixed,
                )  # fmt: skip
                if len(out):
                    for label in range(num_labels):
                        for x in range(across):
                            out[label * (len(logits) // width) + pixel + x] = row[margin + x * width + label]
                if is_written:
                    _hand_on(row, margin, pixel, across, width, has_grid, grid_before, corners, partial, ids, weights,
                             lattice_before)  # fmt: skip
                    if has_grid:
                        start = (z + radii[0]) * slab_length + y * row_length
                        _filter_row(after, start, row, width, across, taps_x, radii[2])
        if is_written and has_grid and height > 1:
            for z in range(top, bottom):
                start = (z + radii[0]) * slab_length
                copy_row(slab, radii[1] * row_length, after, start, slab_length)
                for y in range(0, height, OUTPUTS):
                    _filter(after, start + y * row_length, row_length, slab, y * row_length, row_length, row_length,
                            min(OUTPUTS, height - y), taps_y, radii[1])  # fmt: skip


@compiled
def _start_rows(points, begin, end, table, spread, partial, width, is_read):  # type: ignore[no-untyped-def]
    """This part's rows: fetch what the blur has made of their lattice points, and empty them for the next splat."""
    for each in range(begin, end):
        if is_read:
            copy_row(spread, each * width, table, np.int64(points[each]) * width, width)
        clear_row(partial, each * width, width)


@compiled
def _filter(target, i, step, source, j, stride, length, outputs, taps, radius):  # type: ignore[no-untyped-def]
    """`outputs` (up to OUTPUTS) rows of `length` of target, `step` apart, from rows of source `stride` apart."""
    if outputs == OUTPUTS:
        k = 0
        while k + 16 <= length:
            filter_4x16(target, i + k, step, source, j + k, stride, taps, radius)
            k += 16
        if k + 8 <= length:
            filter_4x8(target, i + k, step, source, j + k, stride, taps, radius)
            k += 8
        if k < length:
            filter_4x4(target, i + k, step, source, j + k, stride, taps, radius)
    else:
        for output in range(outputs):
            for k in range(0, length, LANES):
                filter_1x4(target, i + output * step + k, step, source, j + output * stride + k, stride, taps, radius)


@compiled
def _filter_row(target, i, row, width, across, taps, radius):  # type: ignore[no-untyped-def]
    """The filter along a row of pixels, whose margins are zero."""
    for x in range(0, across, OUTPUTS):
        at = i + x * width
        _filter(target, at, width, row, x * width, width, width, min(OUTPUTS, across - x), taps, radius)


@compiled
def _form_row(  # type: ignore[no-untyped-def]
    row, margin, logits, pixel, across, width, is_read, has_grid, message, message_start, grid_after,
    corners, spread, ids, weights, lattice_after, mixing, mixed,
):  # fmt: skip
    """New marginals of a row of pixels, from `margin` on."""
    sums, start = row, margin
    if len(mixing):
        sums, start = mixed, 0
        clear_row(mixed, 0, across * width)
    copy_row(row, margin, logits, pixel * width, across * width)
    if is_read:
        for x in range(across):
            at, p = start + x * width, pixel + x
            if has_grid:
                add_row(sums, at, grid_after[p], message, message_start + x * width, width)
            if corners:
                add_gathered(sums, at, lattice_after[p], spread, ids, weights, p * corners, corners, width)
    if is_read and len(mixing):
        for x in range(across):
            for label in range(width):
                share = mixed[x * width + label]
                add_row(row, margin + x * width, share, mixing, label * width, width)
    for x in range(across):
        softmax_row(row, margin + x * width, width)


@compiled
def _hand_on(  # type: ignore[no-untyped-def]
    row, margin, pixel, across, width, has_grid, grid_before, corners, partial, ids, weights, lattice_before
):  # fmt: skip
    """Splat a row of marginals, then weight it for the filter along it."""
    if corners:
        for x in range(across):
            p = pixel + x
            before = lattice_before[p]
            for entry in range(p * corners, (p + 1) * corners):
                at = np.int64(ids[entry]) * width
                add_row(partial, at, before * weights[entry], row, margin + x * width, width)
    if has_grid:
        for x in range(across):
            scale_row(row, margin + x * width, grid_before[pixel + x], width)
