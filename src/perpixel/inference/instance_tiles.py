"""The objects of a large image from those of overlapping tiles: each is owned once, and whole across the seams.

        +-----------+- - -+-----------+      A  whole in both tiles: that of the tile whose core holds most of it counts
        |       A   |  A  |           |      B  cut in one, whole in the other: the whole view counts
        |          B|B B  |           |      C  cut in both, or larger than a tile: joined, each pixel by the tile in
        |      C C C|C C C|C C        |         whose core it lies
        +-----------+- - -+-----------+

Nothing is drawn at the size of the image: objects are runs of pixels, so that memory grows with the objects and a tile.
An object that is smaller than what neighbours share is whole in one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.inference.instance_views import (
    INSIDE,
    Ints,
    Tile,
    Views,
    gather_views,
    group_views,
    inner_border,
    overlaps_by_rows,
)
from perpixel.labels import Instances, Runs, cut_runs, merge_spans, overlaps, union_of

# Share of its pixels in the core of its tile from which a view counts that no other tile confirms.
OWNED = 0.5


def merge_tiles(
    size: tuple[int, int], tiles: Sequence[Tile], found: Sequence[Instances], *, min_score: float = 0.0
) -> Instances:
    """One set of objects from those of all tiles.

    Views that agree where tiles overlap are one object. A view that no other tile confirms counts where the core of its
    tile holds most of it: elsewhere another tile sees more of the place and has found nothing there. Of views that
    cover each other without agreeing, those of the tile count that sees the place furthest from its borders.
    The score of an object that several tiles saw a part of is their mean, weighted by area. Objects share pixels only
    where a tile's own do.

    Args:
        size: (H, W) of the image.
        tiles: as `tile_image` gives them.
        found: the objects of each, in the tile's own pixels; without scores all have 1.
        min_score: objects below are left out, after the views of an object have been joined.
    Returns:
        With scores, the best first. The same input gives the same output.
    Raises:
        InputError: objects of another size than their tile.
    """
    for tile, part in zip(tiles, found, strict=True):
        if part.size != tile.size:
            raise InputError(f"objects of an image of {part.size} in a tile of {tile.size}: give those of the tile")
    views = gather_views(size, tiles, found)
    groups = group_views(views, tiles)
    pool = [_resolve(views, group, tiles) for group in _without_vetoed(views, groups)]
    pool = [each for each in pool if each.score >= min_score]
    if not pool:
        return Instances.of(Runs.join(size, []), scores=np.zeros(0))
    if len(tiles) > 1:
        pool = _settle(pool, tiles, size)
        if not any(_share_pixels(part) for part in found):
            pool = _take_apart(pool, size)
    pool.sort(key=lambda each: (-each.score, each.first))
    return Instances(
        np.array([each.label for each in pool], np.int64),
        np.array([each.box for each in pool], np.float64).reshape(-1, 4),
        Runs.join(size, [each.spans for each in pool]),
        np.zeros(len(pool), bool),
        np.array([each.area for each in pool], np.float64),
        np.array([each.score for each in pool], np.float64),
    )


@dataclass(frozen=True, eq=False)
class _Object:
    """An object of the image. `first` is its first view, `tiles` all that saw it, `is_owned` whether the core of its
    tile holds most of it, or two tiles agree on it."""

    first: int
    tiles: frozenset[int]
    is_owned: bool
    label: int
    score: float
    spans: Ints
    box: NDArray[np.float64]
    area: float


def _without_vetoed(views: Views, groups: list[Ints]) -> list[Ints]:
    """Without views that stand alone where another tile sees more of the place, and nothing is there for that one."""
    alone = np.array([group[0] for group in groups if len(group) == 1 and views.own[group[0]] < OWNED], np.int64)
    masks = views.found.masks
    rows, others, shared = overlaps_by_rows(masks.take(alone), masks)
    is_seen = (views.tiles[others] != views.tiles[alone[rows]]) & (shared >= INSIDE * masks.areas[alone[rows]])
    vetoed = set(np.delete(alone, rows[is_seen]).tolist())
    return [group for group in groups if int(group[0]) not in vetoed]


def _resolve(views: Views, group: Ints, tiles: Sequence[Tile]) -> _Object:
    """The object that a group of views shows."""
    chosen = _whole_view(views, group, tiles)
    seen_by = frozenset(views.tiles[group].tolist())
    if chosen is None:
        spans = _join_views(views, group, tiles)
        masks = Runs.join(views.found.size, [spans])
        weights = views.found.masks.areas[group]
        score = float(np.average(views.scores[group], weights=weights))
        label = int(np.argmax(np.bincount(views.found.classes[group], weights * (views.scores[group] + 1e-9))))
        box, area = masks.boxes[0].astype(np.float64), float(masks.areas[0])
        return _Object(int(group[0]), seen_by, True, label, score, spans, box, area)
    found = views.found
    return _Object(
        int(group[0]),
        seen_by,
        len(group) > 1 or float(views.own[chosen]) >= OWNED,
        int(found.classes[chosen]),
        float(views.scores[chosen]),
        found.masks.of(chosen),
        found.boxes[chosen],
        float(found.areas[chosen]),
    )


def _whole_view(views: Views, group: Ints, tiles: Sequence[Tile]) -> int | None:
    """The view that stands for all of them; None where they are to be joined."""
    if len(group) == 1:
        return int(group[0])
    whole = group[~views.is_cut[group]]
    if not len(whole):
        return None
    order = np.lexsort((whole, -views.scores[whole], -views.own[whole]))
    chosen = int(whole[order[0]])
    masks, box = views.found.masks, tiles[views.tiles[chosen]].box
    boxes = masks.boxes[group]
    is_inside = (boxes[:, :2] >= box[:2]).all() and (boxes[:, 2:] <= box[2:]).all()
    if is_inside and masks.areas[chosen] >= INSIDE * masks.areas[group].sum():  # quickly told of nearly all
        return chosen
    # A piece that ends before the border by chance does not stand for an object of several tiles.
    union = union_of(masks.take(group))
    is_most = masks.areas[chosen] >= INSIDE * union.areas[0]
    return chosen if is_most and cut_runs(union, box).areas[0] == union.areas[0] else None


def _join_views(views: Views, group: Ints, tiles: Sequence[Tile]) -> Ints:
    """Each pixel as the tile says in whose core it lies; where that has no view of the object, as the others say."""
    masks = views.found.masks.take(group)
    numbers = views.tiles[group]
    pieces = [np.zeros((0, 2), np.int64)]
    covered = []
    for number in np.unique(numbers).tolist():
        pieces.append(cut_runs(masks.take(numbers == number), tiles[number].core).spans)
        covered.append(tiles[number].core)
    rest = Runs.join(masks.size, [merge_spans(masks.spans)])
    for core in covered:
        inside = cut_runs(rest, core)
        rest = Runs.join(masks.size, [subtract_spans(rest.of(0), inside.of(0))])
    return merge_spans(np.concatenate([*pieces, rest.spans]))


def subtract_spans(spans: Ints, other: Ints) -> Ints:
    """The pixels of sorted `spans` that are not in sorted `other`."""
    if not len(spans) or not len(other):
        return spans
    # Between the spans of `other` lie gaps, the first from 0, the last without end.
    end = max(int(spans[-1, 1]), int(other[-1, 1]))
    gaps = np.stack([np.concatenate([[0], other[:, 1]]), np.concatenate([other[:, 0], [end]])], axis=1)
    first = np.searchsorted(gaps[:, 1], spans[:, 0], side="right")
    last = np.searchsorted(gaps[:, 0], spans[:, 1], side="left")
    counts = np.maximum(last - first, 0)
    which = np.repeat(np.arange(len(spans)), counts)
    gap = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.maximum(spans[which, 0], gaps[gap, 0])
    until = np.minimum(spans[which, 1], gaps[gap, 1])
    return np.stack([begin, until], axis=1)[until > begin]


def _settle(pool: list[_Object], tiles: Sequence[Tile], size: tuple[int, int]) -> list[_Object]:
    """Without objects of different tiles that cover each other: of such, one tile's stay."""
    masks = Runs.join(size, [each.spans for each in pool])
    rows, cols, shared = overlaps_by_rows(masks, masks)
    least = INSIDE * np.minimum(masks.areas[rows], masks.areas[cols])
    disputes: dict[int, dict[int, int]] = {}
    for a, b, pixels in zip(rows[shared >= least].tolist(), cols[shared >= least].tolist(), shared[shared >= least]):
        # A tile that saw both has told them apart: they do overlap.
        if not pool[a].tiles & pool[b].tiles:
            disputes.setdefault(a, {})[b] = int(pixels)
    dropped: set[int] = set()
    seen: set[int] = set()
    for start in sorted(disputes):
        if start not in seen:
            cluster = _connected(start, disputes)
            seen |= cluster
            dropped |= cluster - _decide(sorted(cluster), pool, masks, disputes, tiles)
    # What its own tile does not own fills a gap, or is nothing new.
    for a, each in enumerate(pool):
        if not each.is_owned and a not in dropped:
            near = cols[slice(*np.searchsorted(rows, (a, a + 1)))].tolist()
            others = [b for b in near if b != a and b not in dropped]
            covered = overlaps(masks.take([a]), union_of(masks.take(others)))[2].sum()
            if covered >= INSIDE * masks.areas[a]:
                dropped.add(a)
    return [each for a, each in enumerate(pool) if a not in dropped]


def _connected(start: int, disputes: dict[int, dict[int, int]]) -> set[int]:
    found, left = {start}, [start]
    while left:
        for other in disputes[left.pop()]:
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def _decide(
    cluster: list[int], pool: list[_Object], masks: Runs, disputes: dict[int, dict[int, int]], tiles: Sequence[Tile]
) -> set[int]:
    """Those of a cluster that stay: the objects of the tile that sees the place best come first."""
    boxes = masks.boxes[cluster]
    hull = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])

    def clearance(each: _Object) -> float:
        borders = [inner_border(tiles[number].box, masks.size) for number in each.tiles]
        return max(float(min(*(hull[:2] - border[:2]), *(border[2:] - hull[2:]))) for border in map(np.array, borders))

    kept: set[int] = set()
    for a in sorted(cluster, key=lambda a: (-clearance(pool[a]), -pool[a].score, a)):
        rivals = {b: pixels for b, pixels in disputes[a].items() if b in kept}
        if sum(rivals.values()) >= INSIDE * masks.areas[a]:
            continue
        # It holds more than what it covers: a piece gives way to the whole.
        kept -= {b for b, pixels in rivals.items() if pixels >= INSIDE * masks.areas[b]}
        kept.add(a)
    return kept


def _share_pixels(found: Instances) -> bool:
    first, second, _ = overlaps_by_rows(found.masks, found.masks)
    return bool((first != second).any())


def _take_apart(pool: list[_Object], size: tuple[int, int]) -> list[_Object]:
    """Each pixel to one object: high scores first, then large ones; what is left without pixels is left out."""
    masks = Runs.join(size, [each.spans for each in pool])
    first, second, _ = overlaps_by_rows(masks, masks)
    rank = np.empty(len(pool), np.int64)
    scores = np.array([each.score for each in pool])
    rank[np.lexsort((np.arange(len(pool)), -masks.areas, -scores))] = np.arange(len(pool))
    loses = rank[first] > rank[second]
    first, second = first[loses], second[loses]
    result = list(pool)
    for a in np.unique(first).tolist():
        rivals = second[slice(*np.searchsorted(first, (a, a + 1)))]
        stronger = merge_spans(masks.take(rivals).spans)
        result[a] = _with_spans(pool[a], subtract_spans(masks.of(a), stronger), size)
    return [each for each in result if len(each.spans)]


def _with_spans(each: _Object, spans: Ints, size: tuple[int, int]) -> _Object:
    masks = Runs.join(size, [spans])
    box, area = masks.boxes[0].astype(np.float64), float(masks.areas[0])
    return _Object(each.first, each.tiles, each.is_owned, each.label, each.score, spans, box, area)
