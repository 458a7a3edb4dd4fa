"""Scenes of objects, and detectors that see a window of one: exactly, or as nets do."""

from __future__ import annotations

import cv2
import numpy as np

from perpixel.inference.instance_views import Tile
from perpixel.labels import Instances, Runs, connected_components, place_runs, spans_of_mask


def draw_scene(
    seed: int, size: tuple[int, int] = (150, 190), count: int = 30, *, overlapping: bool = True
) -> Instances:
    """Ellipses, rings and U's of many sizes, some larger than a tile; scores tell them apart."""
    rng = np.random.default_rng(seed)
    masks = []
    for number in range(count):
        canvas = np.zeros(size, np.uint8)
        centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        axes = tuple(int(side) for side in rng.integers(4, 60 if number % 7 == 0 else 16, 2))
        turn = float(rng.uniform(0, 180))
        shape = number % 5
        if shape == 3:
            cv2.ellipse(canvas, centre, axes, turn, 0, 360, 1, 3)
        elif shape == 4:
            cv2.ellipse(canvas, centre, axes, turn, 0, 200, 1, 4)
        else:
            cv2.ellipse(canvas, centre, axes, turn, 0, 360, 1, -1)
        masks.append(canvas > 0)
    runs = Runs.from_masks(np.array(masks), size)
    scene = Instances.of(runs, rng.integers(1, 3, count), scores=rng.permutation(count) / count)
    scene = scene.take(runs.areas > 0)
    return scene if overlapping else scene.without_overlaps()


def look(scene: Instances, tile: Tile) -> Instances:
    """The truth, cut to a window."""
    masks = place_runs(scene.masks, (-tile.box[1], -tile.box[0]), tile.size)
    there = masks.areas > 0
    scores = None if scene.scores is None else scene.scores[there]
    return Instances.of(masks.take(there), scene.classes[there], scores=scores)


def look_in_pieces(scene: Instances, tile: Tile) -> Instances:
    """As `look`, but what the window shows as separate pieces are separate objects, as after a grouping of pixels."""
    found = look(scene, tile)
    spans, origin = [], []
    for index in range(len(found)):
        mask, corner = found.masks.crop(index)
        numbered, count = connected_components(mask)
        spans += [spans_of_mask(numbered == n, corner, tile.size) for n in range(1, count + 1)]
        origin += [index] * count
    scores = None if found.scores is None else found.scores[origin]
    return Instances.of(Runs.join(tile.size, spans), found.classes[origin], scores=scores)


def look_as_a_net(
    scene: Instances, tile: Tile, rng: np.random.Generator, *, shift: float = 1.0, rare: float = 0.02
) -> Instances:
    """As nets do: outlines move by a pixel or so, differently in each window; what is less than half in the window is
    often not seen; some objects are missed, some are found where there is nothing; scores are rough."""
    whole = scene.masks.areas
    placed = place_runs(scene.masks, (-tile.box[1], -tile.box[0]), tile.size)
    spans, kinds, scores = [], [], []
    for index in np.flatnonzero(placed.areas):
        seen = placed.areas[index] / whole[index]
        if rng.random() < (rare if seen > 0.5 else 1 - seen):
            continue
        mask, corner = placed.crop(int(index))
        padded = np.pad(mask, 3).astype(np.uint8)
        matrix = np.array([[1, 0, rng.normal(0, shift / 2)], [0, 1, rng.normal(0, shift / 2)]], np.float32)
        moved = cv2.warpAffine(padded * 255, matrix, padded.shape[::-1])
        moved = cv2.GaussianBlur(moved, (0, 0), 1.0) > 255 * np.clip(rng.normal(0.5, 0.12 * shift), 0.2, 0.8)
        found = spans_of_mask(moved, (corner[0] - 3, corner[1] - 3), tile.size)
        if len(found):
            spans.append(found)
            kinds.append(scene.classes[index])
            scores.append(np.clip(0.95 * min(1, 0.4 + seen) + rng.normal(0, 0.05), 0.01, 1))
    for _ in range(rng.binomial(np.count_nonzero(placed.areas), rare)):
        row, col = rng.integers(0, np.array(tile.size) - 8)
        spans.append(spans_of_mask(np.ones((8, 8), bool), (int(row), int(col)), tile.size))
        kinds.append(1)
        scores.append(rng.uniform(0.05, 0.6))
    return Instances.of(Runs.join(tile.size, spans), np.array(kinds, np.int64), scores=np.array(scores))
