"""What overlapping tiles say of the same objects: each view of an object, and which views agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perpixel.inference.sliding import window_starts
from perpixel.labels import Instances, Runs, Window, connected_components, cut_runs, overlaps, place_runs, spans_of_mask

Ints = NDArray[np.int64]

# IoU, within the pixels that both tiles see, from which two views are one object.
AGREE = 0.5
# Share of the smaller one from which one view may be a part of another, or stand in its place.
INSIDE = 0.5
# A view that comes as near as this (pixels) to a border of its tile, which is not the image's, may be cut by it: the
# masks of a net end a little before the border.
NEAR_BORDER = 4
OBJECTS_AT_ONCE = 500


class Tile(NamedTuple):
    """A window of the image, and the part of it that is its own: the cores of all tiles cover each pixel once."""

    box: Window
    core: Window

    @property
    def size(self) -> tuple[int, int]:
        return self.box[3] - self.box[1], self.box[2] - self.box[0]


def tile_image(size: tuple[int, int], tile: tuple[int, int], overlap: float) -> list[Tile]:
    """Tiles (height, width) over an image of `size` (H, W), row by row; neighbours share at least `overlap` of a side.

    Cores end in the middle of what neighbours share.
    """
    rows, cols = (_axis(side, min(side, own), overlap) for side, own in zip(size, tile))
    return [Tile((x0, y0, x1, y1), (cx0, cy0, cx1, cy1)) for y0, y1, cy0, cy1 in rows for x0, x1, cx0, cx1 in cols]


def _axis(length: int, window: int, overlap: float) -> list[tuple[int, int, int, int]]:
    starts = window_starts(length, window, overlap)
    middles = [(before + window + after) // 2 for before, after in pairwise(starts)]
    edges = [0, *middles, length]
    return [(start, start + window, low, high) for start, low, high in zip(starts, edges, edges[1:])]


@dataclass(frozen=True, eq=False)
class Views:
    """All that all tiles found, in the image's pixels. M views.

    Attributes:
        found: the objects as each tile saw them.
        tiles: (M,) the tile of each.
        is_cut: (M,) bool; whether it reaches a border of its tile inside the image.
        own: (M,) share of its pixels that lie in the core of its tile.
    """

    found: Instances
    scores: NDArray[np.float64]
    tiles: Ints
    is_cut: NDArray[np.bool_]
    own: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tiles)


def gather_views(size: tuple[int, int], tiles: Sequence[Tile], found: Sequence[Instances]) -> Views:
    """Lay the objects of each tile, in its own pixels, into the image; those without a pixel are left out."""
    parts, own = [], []
    for tile, part in zip(tiles, found, strict=True):
        part = part.take(part.masks.areas > 0)
        placed = place_runs(part.masks, (tile.box[1], tile.box[0]), size)
        parts.append((part, placed))
        own.append(cut_runs(placed, tile.core).areas / np.maximum(placed.areas, 1))
    numbers = np.repeat(np.arange(len(tiles)), [len(part) for part, _ in parts])
    corners = np.array([tile.box[:2] * 2 for tile in tiles], np.float64).reshape(-1, 4)
    joined = Instances(
        np.concatenate([part.classes for part, _ in parts]),
        np.concatenate([part.boxes for part, _ in parts]) + corners[numbers],
        join_runs(size, [placed for _, placed in parts]),
        np.concatenate([part.is_crowd for part, _ in parts]),
        np.concatenate([part.areas for part, _ in parts]),
    )
    scores = [np.ones(len(part)) if part.scores is None else part.scores for part, _ in parts]
    is_cut = _reach(joined.masks.boxes, np.array([inner_border(tile.box, size) for tile in tiles])[numbers])
    return Views(joined, np.concatenate(scores), numbers, is_cut, np.concatenate(own))


def join_runs(size: tuple[int, int], parts: Sequence[Runs]) -> Runs:
    """The objects of several parts one after another."""
    counts = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.starts) for part in parts)])
    spans = np.concatenate([np.zeros((0, 2), np.int64), *(part.spans for part in parts)])
    return Runs(size, spans, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def inner_border(box: Window, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The sides of a tile; those that are the image's lie infinitely far away."""
    height, width = size
    return (
        box[0] if box[0] > 0 else -np.inf,
        box[1] if box[1] > 0 else -np.inf,
        box[2] if box[2] < width else np.inf,
        box[3] if box[3] < height else np.inf,
    )


def _reach(boxes: Ints, borders: NDArray[np.float64]) -> NDArray[np.bool_]:
    borders = borders.reshape(-1, 4)
    low = (boxes[:, :2] - borders[:, :2] < NEAR_BORDER).any(axis=1)
    return np.asarray(low | (borders[:, 2:] - boxes[:, 2:] < NEAR_BORDER).any(axis=1))


def group_views(views: Views, tiles: Sequence[Tile]) -> list[Ints]:
    """Numbers of the views of each object, those of one object rising; every view is in one group.

    Two views of neighbouring tiles are the same object where, within what both tiles see, their IoU is at least AGREE:
    best pairs first, those of one class before others, one partner in each tile. Then parts: a cut view is a part of
    one in the neighbour that holds it as a piece by itself, as the arm of a U whose bend only the neighbour sees.
    """
    same, parts = [], []
    for one, other, shared in _neighbours(tiles):
        pairs, pieces = _agreements(views, one, other, shared)
        same += pairs
        parts += pieces
    groups = _Groups(views.tiles)
    partners: set[tuple[int, int]] = set()
    for *_, a, b in sorted(same):
        slots = {(a, int(views.tiles[b])), (b, int(views.tiles[a]))}
        if not slots & partners and groups.join(a, b, is_same=True):
            partners |= slots
    for part, whole in sorted(parts):
        if (part, int(views.tiles[whole])) not in partners:
            groups.join(part, whole, is_same=False)
    return groups.members()


def overlaps_by_rows(first: Runs, second: Runs) -> tuple[Ints, Ints, Ints]:
    """As `overlaps`, for very many objects: only those that lie in the same rows of the image are compared."""
    if len(first) <= OBJECTS_AT_ONCE:
        return overlaps(first, second)
    order = np.argsort(first.boxes[:, 1], kind="stable")
    found = []
    for start in range(0, len(order), OBJECTS_AT_ONCE):
        some = order[start : start + OBJECTS_AT_ONCE]
        top, bottom = first.boxes[some, 1].min(), first.boxes[some, 3].max()
        near = np.flatnonzero((second.boxes[:, 1] < bottom) & (second.boxes[:, 3] > top))
        rows, cols, shared = overlaps(first.take(some), second.take(near))
        found.append((some[rows], near[cols], shared))
    rows, cols, shared = (np.concatenate(column) for column in zip(*found))
    order = np.lexsort((cols, rows))
    return rows[order], cols[order], shared[order]


def _neighbours(tiles: Sequence[Tile]) -> Iterator[tuple[int, int, Window]]:
    """Pairs of tiles, and the window that both see."""
    boxes = np.array([tile.box for tile in tiles], np.int64).reshape(-1, 4)
    for one in range(len(tiles)):
        low, high = np.maximum(boxes[one, :2], boxes[:, :2]), np.minimum(boxes[one, 2:], boxes[:, 2:])
        for other in np.flatnonzero((low < high).all(axis=1)).tolist():
            if other > one:
                (x0, y0), (x1, y1) = low[other].tolist(), high[other].tolist()
                yield one, other, (x0, y0, x1, y1)


def _inside(views: Views, tile: int, window: Window) -> tuple[Ints, Runs]:
    """Views of a tile that have pixels in a window, and these pixels."""
    numbers = np.arange(*np.searchsorted(views.tiles, (tile, tile + 1)))  # views come tile by tile
    boxes = views.found.masks.boxes[numbers]
    meet = (boxes[:, :2] < window[2:]).all(axis=1) & (boxes[:, 2:] > window[:2]).all(axis=1)
    numbers = numbers[meet]
    cut = cut_runs(views.found.masks.take(numbers), window)
    has_any = cut.areas > 0
    return numbers[has_any], cut.take(has_any)


Same = tuple[bool, float, float, float, int, int]


def _agreements(views: Views, one: int, other: int, window: Window) -> tuple[list[Same], list[tuple[int, int]]]:
    """Pairs of views of two tiles that are the same (sort key, then the two), and pairs (part, whole)."""
    ours, our_runs = _inside(views, one, window)
    theirs, their_runs = _inside(views, other, window)
    rows, cols, shared = overlaps(our_runs, their_runs)
    areas = our_runs.areas[rows], their_runs.areas[cols]
    ratios = shared / (areas[0] + areas[1] - shared)
    first, second = ours[rows], theirs[cols]
    classes = views.found.classes
    is_other = classes[first] != classes[second]
    # Where two objects look alike in a narrow strip, the scores tell them apart.
    apart = np.abs(views.scores[first] - views.scores[second])
    same = [
        (bool(is_other[p]), -float(ratios[p]), -float(shared[p]), float(apart[p]), int(first[p]), int(second[p]))
        for p in np.flatnonzero(ratios >= AGREE)
    ]
    may_be_part = ~is_other & (ratios < 1) & (shared >= INSIDE * np.minimum(*areas))
    parts = []
    for p in np.flatnonzero(may_be_part):
        small, large, runs = (first[p], second[p], (our_runs.take([rows[p]]), their_runs.take([cols[p]])))
        if areas[0][p] > areas[1][p]:
            small, large, runs = large, small, runs[::-1]
        if views.is_cut[small] and _is_piece(*runs):
            parts.append((int(small), int(large)))
    return same, parts


def _is_piece(small: Runs, large: Runs) -> bool:
    """Whether one of several separate pieces of `large` agrees with `small`."""
    mask, corner = large.crop(0)
    numbered, count = connected_components(mask)
    if count < 2:
        return False
    pieces = Runs.join(large.size, [spans_of_mask(numbered == n, corner, large.size) for n in range(1, count + 1)])
    rows, _, shared = overlaps(pieces, small)
    return bool((shared / (pieces.areas[rows] + small.areas[0] - shared) >= AGREE).any())


class _Groups:
    """Sets of views that grow together."""

    def __init__(self, tiles: Ints) -> None:
        self.parents = list(range(len(tiles)))
        self.tiles = [{int(tile)} for tile in tiles]

    def root(self, view: int) -> int:
        while self.parents[view] != view:
            self.parents[view] = self.parents[self.parents[view]]
            view = self.parents[view]
        return view

    def join(self, a: int, b: int, *, is_same: bool) -> bool:
        """Join two groups; with `is_same` not where a tile told them apart. Returns whether they are one now."""
        a, b = sorted((self.root(a), self.root(b)))
        if a == b:
            return True
        if is_same and self.tiles[a] & self.tiles[b]:
            return False
        self.parents[b] = a
        self.tiles[a] |= self.tiles[b]
        return True

    def members(self) -> list[Ints]:
        roots = np.array([self.root(view) for view in range(len(self.parents))], np.int64)
        order = np.argsort(roots, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(roots[order])) + 1) if len(order) else []
