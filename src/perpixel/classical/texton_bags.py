"""Bags of semantic textons and region priors: what lies in a rectangle, in words of the first forest.

A pixel's semantic textons are all nodes that it passes in all trees. The bag of a region counts them, node by node over
all depths (roots left out: everything passes them); a parent's count is the sum of its children's. The region prior is
the mean class distribution of the leaves of its pixels. Both are sums over rectangles, so integral images give any of
them by four reads.

Where we differ, to bound memory (a full integral image for each of some thousand nodes would take gigabytes): cells of
`cell` x `cell` pixels, not pixels, are summed; rectangles are whole cells; and only some nodes, drawn at random by how
many pixels pass them, are counted for rectangles (`bag_nodes`). The bag of the whole image holds all of them.

Class distributions are rounded to 1 / `prior_scale`, so that all sums are whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perpixel.classical.texton_trees import Trees
from perpixel.compiled import Workers, compile_loop

# What the class probabilities of a pixel, summed over the trees, add up to, at most.
PRIOR_SUM = 1280


def prior_scale(trees: int) -> int:
    """Steps of a leaf's class probability."""
    return max(1, PRIOR_SUM // trees)


def prior_table(trees: Trees) -> Tensor:
    """(N, K) int32: class distributions in whole steps."""
    return (trees.probs * prior_scale(len(trees.roots))).round().int()


def draw_bag_nodes(counts: np.ndarray, is_root: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    """Numbers of at most `wanted` nodes, in order, drawn by how many training pixels pass them; no roots.

    Args:
        counts: (N,) pixels that pass each node.
    """
    mass = np.where(is_root, 0, counts).astype(np.float64)
    possible = int((mass > 0).sum())
    if possible <= wanted:
        return np.flatnonzero(mass > 0)
    return np.sort(random.choice(len(mass), wanted, replace=False, p=mass / mass.sum()))


def node_members(trees: Trees, bag_nodes: Tensor) -> Tensor:
    """(N, depth) int64: places in `bag_nodes` of the counted nodes from each node up; len(bag_nodes) fills."""
    count = len(trees.parents)
    fill = len(bag_nodes)
    place = torch.full((count,), fill, dtype=torch.int64, device=bag_nodes.device)
    place = place.scatter(0, bag_nodes.long(), torch.arange(fill, device=bag_nodes.device))
    node, members = torch.arange(count, device=bag_nodes.device), []
    parents = trees.parents.long()
    for _ in range(max(1, trees.depth)):
        is_root = parents[node] == node
        members.append(torch.where(is_root, fill, place[node]))
        node = parents[node]
    return torch.stack(members, 1).sort(1).values


class Window(NamedTuple):
    """Pixels row0..row1, col0..col1 (ends left out) and the cells (top..bottom, left..right) that they may ask for."""

    row0: int
    row1: int
    col0: int
    col1: int
    top: int
    bottom: int
    left: int
    right: int


def window_around(size: tuple[int, int], part: tuple[int, int, int, int], cell: int, reach: int) -> Window:
    """The window for a part (row0, row1, col0, col1) of an image, with `reach` pixels around it."""
    (height, width), (row0, row1, col0, col1) = size, part
    return Window(
        *part,
        max(0, (row0 - reach) // cell), -(-min(height, row1 + reach + cell) // cell),
        max(0, (col0 - reach) // cell), -(-min(width, col1 + reach + cell) // cell),
    )  # fmt: skip


class Bags:
    """Sums over cells of one window: integral images of class priors and counted nodes.

    planes: (K + M, rows + 1, cols + 1) int32, classes first; entry [p, r, c] sums the cells above row r, left of
        column c of the window. priors: (K, H, W) int16 of its pixels and those around, which start at (row0, col0).
    """

    def __init__(self, planes: Tensor, priors: Tensor, window: Window, cell: int) -> None:
        self.planes, self.priors, self.window, self.cell = planes, priors, window, cell

    @property
    def first_pixel(self) -> tuple[int, int]:
        """Where `priors` start in the image."""
        return self.window.top * self.cell, self.window.left * self.cell


def pixels_of(leaves: Tensor, window: Window, cell: int) -> Tensor:
    """(T, h, w) leaves of the pixels of the window's cells."""
    _, height, width = leaves.shape
    rows = slice(window.top * cell, min(height, window.bottom * cell))
    return leaves[:, rows, window.left * cell : min(width, window.right * cell)]


def make_bags(
    leaves: Tensor, table: Tensor, members: Tensor, nodes: int, window: Window, cell: int, threads: int
) -> Bags:
    """Bags of a window by compiled loops.

    Args:
        leaves: (T, h, w) int32, `pixels_of` the window. table: `prior_table`. members: `node_members`. nodes: M.
    """
    own = np.ascontiguousarray(leaves.numpy())
    classes, (_, height, width) = table.shape[1], own.shape
    rows, cols = window.bottom - window.top, window.right - window.left
    planes = np.zeros((classes + nodes, rows + 1, cols + 1), np.int32)
    priors = np.empty((classes, height, width), np.int16)
    fill, integrate = _cells_loop(), _integral_loop()
    assert fill is not None and integrate is not None
    steps, listed = table.numpy(), members.numpy().astype(np.int32)
    band = 8
    with Workers(threads) as workers:
        workers.run(
            lambda i: fill(own, steps, listed, nodes, cell, i * band, min(rows, (i + 1) * band), priors, planes),
            -(-rows // band),
        )
        workers.run(lambda i: integrate(planes, i * 16, min(len(planes), (i + 1) * 16)), -(-len(planes) // 16))
    return Bags(torch.from_numpy(planes), torch.from_numpy(priors), window, cell)


def make_bags_by_torch(leaves: Tensor, table: Tensor, members: Tensor, nodes: int, window: Window, cell: int) -> Bags:
    """`make_bags` in torch operations, on any device."""
    own = leaves.long()
    trees, height, width = own.shape
    classes = table.shape[1]
    priors = table[own].sum(0, dtype=torch.int32).permute(2, 0, 1)  # (K, h, w)
    # Each node's row: one where it or a node above it is counted; a last row of zeros stands for no pixel.
    counted = torch.zeros(len(members), nodes + 1, dtype=torch.int32, device=own.device)
    counted = counted.scatter(1, members, 1)[:, :nodes]
    rows_of = torch.cat([table, counted], 1)
    rows_of = torch.cat([rows_of, torch.zeros_like(rows_of[:1])])
    rows, cols = window.bottom - window.top, window.right - window.left
    blank = F.pad(own, (0, cols * cell - width, 0, rows * cell - height), value=len(members))
    in_cells = blank.reshape(trees, rows, cell, cols, cell).permute(0, 2, 4, 1, 3).reshape(-1, rows, cols)
    sums = rows_of[in_cells[0]]
    for each in in_cells[1:]:
        sums = sums + rows_of[each]  # one pixel of every cell at a time: all at once would fill the memory
    planes = torch.zeros(classes + nodes, rows + 1, cols + 1, dtype=torch.int32, device=own.device)
    summed = sums.permute(2, 0, 1).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    planes[:, 1:, 1:] = summed
    return Bags(planes, priors.to(torch.int16), window, cell)


def whole_bag(leaves: Tensor, trees: Trees) -> Tensor:
    """(N,) float32: share of the image's pixels that pass each node; 0 for the roots.

    Args:
        leaves: (T, H, W) int32.
    """
    parents = trees.parents.long()
    at_leaves = torch.zeros(len(parents), dtype=torch.int64, device=leaves.device)
    flat = leaves.reshape(-1).long()
    at_leaves = at_leaves.scatter_add(0, flat, torch.ones_like(flat))
    is_root = parents == torch.arange(len(parents), device=leaves.device)
    counts = at_leaves
    for _ in range(trees.depth):
        # Children give their parents what they have: after `depth` rounds every node has all of its leaves.
        given = torch.where(is_root, 0, counts)
        counts = at_leaves.scatter_add(0, parents, given)
    return torch.where(is_root, 0, counts).float() / (leaves.shape[1] * leaves.shape[2])


@cache
def _cells_loop() -> Callable[..., None] | None:
    return compile_loop(_cells)


def _cells(leaves, table, members, nodes, cell, begin, end, priors, planes):  # type: ignore[no-untyped-def]
    trees, height, width = leaves.shape
    classes = table.shape[1]
    sums = np.empty(classes, np.int32)
    for row in range(begin * cell, min(end * cell, height)):
        at_row = row // cell + 1
        for col in range(width):
            at_col = col // cell + 1
            sums[:] = 0
            for tree in range(trees):
                leaf = leaves[tree, row, col]
                for k in range(classes):
                    sums[k] += table[leaf, k]
                for step in range(members.shape[1]):
                    place = members[leaf, step]
                    if place >= nodes:
                        break
                    planes[classes + place, at_row, at_col] += 1
            for k in range(classes):
                priors[k, row, col] = sums[k]
                planes[k, at_row, at_col] += sums[k]


@cache
def _integral_loop() -> Callable[..., None] | None:
    return compile_loop(_integral)


def _integral(planes, begin, end):  # type: ignore[no-untyped-def]
    for p in range(begin, end):
        for row in range(1, planes.shape[1]):
            along = np.int32(0)
            for col in range(1, planes.shape[2]):
                along += planes[p, row, col]
                planes[p, row, col] = planes[p, row - 1, col] + along
