"""Two facts about label maps that no fingerprint counts: is there an upright, and what does working smaller cost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.labels import ClassTable, resize_label_map
from perpixel.metrics import compute_scores, confusion_matrix

SCALES = (0.75, 0.5, 0.375, 0.25)


@dataclass(frozen=True)
class LabelFacts:
    """What a handful of training label maps say.

    Attributes:
        vertical, horizontal: how differently classes are spread over top and bottom, left and right halves: total
            variation distance, 0 (alike) to 1.
        ceiling: working scale -> mIoU of label maps that are shrunk by it and enlarged again: no model that works
            at this scale can score more than about this.
    """

    vertical: float
    horizontal: float
    ceiling: dict[float, float]


def label_facts(label_maps: Sequence[np.ndarray], classes: ClassTable) -> LabelFacts:
    """Facts from (H, W) label maps (a few dozen are enough)."""
    tops = sum((_share(label_map, classes, slice(None, label_map.shape[0] // 2), 0) for label_map in label_maps), 0)
    bottoms = sum((_share(label_map, classes, slice(label_map.shape[0] // 2, None), 0) for label_map in label_maps), 0)
    lefts = sum((_share(label_map, classes, slice(None, label_map.shape[1] // 2), 1) for label_map in label_maps), 0)
    rights = sum((_share(label_map, classes, slice(label_map.shape[1] // 2, None), 1) for label_map in label_maps), 0)
    ceiling = {scale: _ceiling(label_maps, classes, scale) for scale in SCALES}
    return LabelFacts(_distance(tops, bottoms), _distance(lefts, rights), ceiling)


def _share(label_map: np.ndarray, classes: ClassTable, part: slice, axis: int) -> np.ndarray:
    half = label_map[part] if axis == 0 else label_map[:, part]
    return np.bincount(half[half < classes.num_classes].ravel(), minlength=classes.num_classes).astype(float)


def _distance(a: np.ndarray | int, b: np.ndarray | int) -> float:
    one, other = np.asarray(a, float), np.asarray(b, float)
    return float(0.5 * np.abs(one / max(one.sum(), 1) - other / max(other.sum(), 1)).sum())


def _ceiling(label_maps: Sequence[np.ndarray], classes: ClassTable, scale: float) -> float:
    counts = np.zeros((classes.num_classes, classes.num_classes), np.int64)
    for label_map in label_maps:
        height, width = label_map.shape
        small = resize_label_map(label_map, (max(1, round(height * scale)), max(1, round(width * scale))))
        back = resize_label_map(small, (height, width))
        back = np.where(back >= classes.num_classes, label_map, back)
        target = np.where(back >= classes.num_classes, classes.ignore_index, label_map)
        pred = np.where(back >= classes.num_classes, 0, back)
        counts += confusion_matrix(pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index)
    return compute_scores(counts).miou
