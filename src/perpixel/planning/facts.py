"""Facts that no fingerprint counts: is there an upright, what does working smaller cost, do labels sit on the image?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.labels import ClassTable, resize_label_map
from perpixel.metrics import compute_scores, confusion_matrix
from perpixel.planning.offset import label_offset, middle_of

SCALES = (0.75, 0.5, 0.375, 0.25)


@dataclass(frozen=True)
class LabelFacts:
    """What a handful of training label maps say.

    Attributes:
        vertical, horizontal: how differently classes are spread over top and bottom, left and right halves: total
            variation distance, 0 (alike) to 1.
        ceiling: working scale -> mIoU of label maps that are shrunk by it and enlarged again: no model that works
            at this scale can score more than about this.
        offset: how far label maps lie (below, right of) the edges of their images, in pixels.
        offset_cost: mIoU that a model loses (by the first, the second) if it cannot know the offset.
    """

    vertical: float
    horizontal: float
    ceiling: dict[float, float]
    offset: tuple[float, float] = (0.0, 0.0)
    offset_cost: tuple[float, float] = (0.0, 0.0)


def label_facts(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: ClassTable) -> LabelFacts:
    """Facts from (H, W, C) images and their (H, W) label maps (a few dozen are enough), read one after the other."""
    middles, label_maps = [], []
    for image, label_map in pairs:
        middles.append((middle_of(image), middle_of(label_map)))
        label_maps.append(label_map)
    tops = sum((_share(label_map, classes, slice(None, label_map.shape[0] // 2), 0) for label_map in label_maps), 0)
    bottoms = sum((_share(label_map, classes, slice(label_map.shape[0] // 2, None), 0) for label_map in label_maps), 0)
    lefts = sum((_share(label_map, classes, slice(None, label_map.shape[1] // 2), 1) for label_map in label_maps), 0)
    rights = sum((_share(label_map, classes, slice(label_map.shape[1] // 2, None), 1) for label_map in label_maps), 0)
    ceiling = {scale: _ceiling(label_maps, classes, scale) for scale in SCALES}
    offset = label_offset([image for image, _ in middles], [label_map for _, label_map in middles])
    cost = tuple(
        min(1.0, abs(by)) * _shift_cost(label_maps, classes, axis) if by else 0.0 for axis, by in enumerate(offset)
    )
    return LabelFacts(_distance(tops, bottoms), _distance(lefts, rights), ceiling, offset, (cost[0], cost[1]))


def _share(label_map: np.ndarray, classes: ClassTable, part: slice, axis: int) -> np.ndarray:
    half = label_map[part] if axis == 0 else label_map[:, part]
    return np.bincount(half[half < classes.num_classes].ravel(), minlength=classes.num_classes).astype(float)


def _distance(a: np.ndarray | int, b: np.ndarray | int) -> float:
    one, other = np.asarray(a, float), np.asarray(b, float)
    return float(0.5 * np.abs(one / max(one.sum(), 1) - other / max(other.sum(), 1)).sum())


def _ceiling(label_maps: Sequence[np.ndarray], classes: ClassTable, scale: float) -> float:
    def reduced(label_map: np.ndarray) -> np.ndarray:
        height, width = label_map.shape
        small = resize_label_map(label_map, (max(1, round(height * scale)), max(1, round(width * scale))))
        return resize_label_map(small, (height, width))

    return _agreement(((label_map, reduced(label_map)) for label_map in label_maps), classes)


def _shift_cost(label_maps: Sequence[np.ndarray], classes: ClassTable, axis: int) -> float:
    """mIoU that label maps lose against themselves moved by one pixel along `axis`."""
    pairs = ((np.moveaxis(each, axis, 0)[1:], np.moveaxis(each, axis, 0)[:-1]) for each in label_maps)
    return 1 - _agreement(pairs, classes)


def _agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: ClassTable) -> float:
    """mIoU of two label maps each, where both are labelled."""
    counts = np.zeros((classes.num_classes, classes.num_classes), np.int64)
    for target, pred in pairs:
        is_void = pred >= classes.num_classes
        target = np.where(is_void, classes.ignore_index, target)
        pred = np.where(is_void, 0, pred)
        counts += confusion_matrix(pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index)
    return compute_scores(counts).miou
