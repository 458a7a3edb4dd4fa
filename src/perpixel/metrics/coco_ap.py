"""COCO's average precision of boxes, masks or outlines.

Each image gives rows: one a detection, with its score and whether it hit an object at each threshold and size. Rows of
images measured in any order, by any number of processes, give the same scores to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.compiled import compile_loop
from perpixel.errors import InputError
from perpixel.labels import Instances, overlaps
from perpixel.metrics.object_bands import band_overlaps
from perpixel.metrics.object_overlaps import Ints, crowd_ratios, union_ratios

Floats = NDArray[np.float64]

KINDS = ("box", "mask", "boundary")
THRESHOLDS = tuple((50 + 5 * step) / 100 for step in range(10))
RECALLS = np.linspace(0.0, 1.0, 101)
# Areas in pixels from which to which an object counts, both included.
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETECTIONS = 100
# What became of a detection.
WRONG, HIT, LEFT_OUT = 0, 1, 2

AP_DEFINITIONS = {
    "ap": "mean over classes and IoU thresholds 0.50, 0.55, ... 0.95 of the average precision: the mean, over 101 "
    "recalls from 0 to 1, of the highest precision at that recall or above; detections of all images are ranked by "
    "score, at most `max_detections` an image and class; crowds are left out (COCO)",
    "ap50": "as ap, at IoU 0.50 only",
    "ap75": "as ap, at IoU 0.75 only",
    "ap_small": "as ap, of objects up to 32 x 32 pixels; hits on others are left out",
    "ap_medium": "as ap, of objects from 32 x 32 to 96 x 96 pixels",
    "ap_large": "as ap, of objects from 96 x 96 pixels",
    "ar": "mean over classes and thresholds of the share of objects that are found with at most `max_detections` "
    "detections an image and class",
}


@dataclass(frozen=True, eq=False)
class DetectionRows:
    """What a set of images adds. A sizes (the keys of `SIZES`), T thresholds, K classes, background included.

    Attributes:
        images: (D,) the number that the caller gave each image.
        classes: (D,) class of each detection.
        ranks: (D,) place by score among those of its image and class, from 0.
        scores: (D,)
        states: (D, A, T) uint8: WRONG, HIT or LEFT_OUT.
        truths: (A, K) int64 objects to be found.
    """

    images: Ints
    classes: Ints
    ranks: Ints
    scores: Floats
    states: NDArray[np.uint8]
    truths: Ints

    @staticmethod
    def join(parts: Iterable[DetectionRows]) -> DetectionRows:
        """Rows of several sets of images, in any order."""
        found = list(parts)
        if not found:
            raise InputError("no image was measured: give the rows of one or more")
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in found]) for name in _COLUMNS}
        return DetectionRows(**columns, truths=np.sum([part.truths for part in found], axis=0))


_COLUMNS = ("images", "classes", "ranks", "scores", "states")


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's scores; NaN where no image has an object of that size.

    Attributes:
        table: (K, A, T) average precision by class, size and threshold.
        recall: (K, A, T) share of the objects that are found.
        recall_at: {1: ..., 10: ...} mean recall over classes and thresholds with at most so many detections.
    """

    table: Floats
    recall: Floats
    recall_at: dict[int, float]

    @property
    def per_class(self) -> Floats:
        """(K,) mean over thresholds, all sizes."""
        return _means(self.table[:, 0])

    def summary(self) -> dict[str, float]:
        """The names of AP_DEFINITIONS, and ar_1 and ar_10."""
        sizes = list(SIZES)
        scores = {"ap": _mean(self.table[:, 0])}
        scores |= {f"ap{round(100 * t)}": _mean(self.table[:, 0, THRESHOLDS.index(t)]) for t in (0.5, 0.75)}
        scores |= {f"ap_{size}": _mean(self.table[:, sizes.index(size)]) for size in sizes[1:]}
        scores |= {f"ar_{count}": value for count, value in self.recall_at.items()}
        scores["ar"] = _mean(self.recall[:, 0])
        return scores | {f"ar_{size}": _mean(self.recall[:, sizes.index(size)]) for size in sizes[1:]}


def detection_rows(
    pred: Instances,
    target: Instances,
    *,
    image: int,
    num_classes: int,
    kind: str = "mask",
    max_detections: int = MAX_DETECTIONS,
) -> DetectionRows:
    """Match the detections of one image with its objects, as COCO does.

    By falling score each detection takes the object of its class with the highest IoU that is still free and reaches
    the threshold; crowds, and objects of another size, are taken where no other one is, and leave it out of the score.

    Args:
        pred: with scores. Its areas tell the size of what hits nothing: pixels of masks, sides of boxes.
        target: its stated areas tell the sizes of objects.
        image: a number of its own for each image; where scores are equal, the lower one ranks first.
        num_classes: K, background (class 0) included.
        kind: "box", "mask", or "boundary": the smaller of the IoU of masks and of the bands along their outlines.
        max_detections: of an image and class; the best are kept.
    Raises:
        InputError: no scores, an unknown kind, classes out of range.
    Reference:
        Lin et al., "Microsoft COCO", ECCV 2014, and its evaluation tools. Boundary AP: Cheng et al., CVPR 2021.
    """
    _check(pred, target, num_classes, kind, max_detections)
    pred, ranks = _ranked(pred, max_detections)
    ignored = target.is_crowd | (target.classes == 0)
    truth = target.take(np.argsort(target.classes, kind="stable"))
    ratios = _ratios(pred, truth, kind)
    first = np.searchsorted(truth.classes, pred.classes, side="left")
    last = np.searchsorted(truth.classes, pred.classes, side="right")
    bounds = np.array(list(SIZES.values()))
    areas = _box_areas(pred.boxes) if kind == "box" else pred.masks.areas.astype(np.float64)
    states = np.zeros((len(pred), len(bounds), len(THRESHOLDS)), np.uint8)
    match = _compiled_match() or _match
    crowd = truth.is_crowd | (truth.classes == 0)
    match(ratios, first, last, truth.areas, crowd, areas, bounds, np.array(THRESHOLDS), states)
    truths = [
        np.bincount(target.classes[~ignored & (low <= target.areas) & (target.areas <= high)], minlength=num_classes)
        for low, high in bounds
    ]
    images = np.full(len(pred), image, np.int64)
    assert pred.scores is not None
    return DetectionRows(images, pred.classes, ranks, pred.scores, states, np.array(truths, np.int64))


def _check(pred: Instances, target: Instances, num_classes: int, kind: str, max_detections: int) -> None:
    if kind not in KINDS:
        raise InputError(f"kind '{kind}': choose one of {', '.join(KINDS)}")
    if pred.scores is None:
        raise InputError("pred has no scores: detections are ranked by them")
    if max_detections < 1:
        raise InputError(f"max_detections is {max_detections}: give 1 or more")
    for name, instances in (("pred", pred), ("target", target)):
        if ((instances.classes < 0) | (instances.classes >= num_classes)).any():
            raise InputError(f"{name} holds class {instances.classes.max()}, outside 0..{num_classes - 1}")
    if np.isnan(pred.scores).any():
        raise InputError("pred has scores that are no numbers: check the model")


def _ranked(pred: Instances, max_detections: int) -> tuple[Instances, Ints]:
    """Detections by class, then falling score; at most so many a class; and the rank of each."""
    assert pred.scores is not None
    order = np.lexsort((np.arange(len(pred)), -pred.scores, pred.classes))
    classes = pred.classes[order]
    ranks = np.arange(len(order)) - np.searchsorted(classes, classes, side="left")
    kept = ranks < max_detections
    return pred.take(order[kept]), ranks[kept].astype(np.int64)


def _ratios(pred: Instances, truth: Instances, kind: str) -> Floats:
    """(D, G) IoU; with a crowd the share of the detection that lies in it; 0 between different classes."""
    crowd = truth.is_crowd | (truth.classes == 0)
    if kind == "box":
        ratios = _box_ratios(pred.boxes, truth.boxes, crowd)
        return np.where(pred.classes[:, None] == truth.classes, ratios, 0.0)
    rows, cols, shared = overlaps(pred.masks, truth.masks, (pred.classes, truth.classes))
    union = crowd_ratios(rows, cols, shared, pred.masks.areas, truth.masks.areas, crowd)
    ratios = np.zeros((len(pred), len(truth)))
    ratios[rows, cols] = union
    if kind == "boundary":
        bands, band_areas, truth_areas = band_overlaps(pred.masks, truth.masks, rows, cols)
        along = np.where(crowd[cols], union, union_ratios(bands, band_areas[rows], truth_areas[cols]))
        ratios[rows, cols] = np.minimum(union, along)
    return ratios


def _box_areas(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _box_ratios(pred: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> Floats:
    low, high = np.maximum(pred[:, None, :2], truth[:, :2]), np.minimum(pred[:, None, 2:], truth[:, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    ours, theirs = _box_areas(pred)[:, None], _box_areas(truth)
    union = np.where(crowd, ours, ours + theirs - shared)
    return np.divide(shared, union, out=np.zeros(shared.shape), where=(union > 0) & (shared > 0))


def _match(
    ratios: Any,
    first: Any,
    last: Any,
    areas: Any,
    crowd: Any,
    pred_areas: Any,
    bounds: Any,
    thresholds: Any,
    states: Any,
) -> None:
    # Detections come by class and falling score; those of class c may take the objects first[d]..last[d]-1.
    taken = np.zeros(len(areas), np.bool_)
    left_out = np.zeros(len(areas), np.bool_)
    for size in range(len(bounds)):
        low, high = bounds[size, 0], bounds[size, 1]
        for g in range(len(areas)):
            left_out[g] = crowd[g] or areas[g] < low or areas[g] > high
        for t in range(len(thresholds)):
            taken[:] = False
            for d in range(len(pred_areas)):
                best, reached = -1, min(thresholds[t], 1 - 1e-10)
                for turn in range(2):  # objects that count come first
                    if turn == 1 and best >= 0:
                        break
                    for g in range(first[d], last[d]):
                        if left_out[g] != (turn == 1) or (taken[g] and not crowd[g]) or ratios[d, g] < reached:
                            continue
                        best, reached = g, ratios[d, g]
                if best >= 0:
                    taken[best] = True
                    states[d, size, t] = 2 if left_out[best] else 1
                else:
                    states[d, size, t] = 2 if pred_areas[d] < low or pred_areas[d] > high else 0


@cache
def _compiled_match() -> Any:
    return compile_loop(_match)


def average_precision(
    rows: DetectionRows | Sequence[DetectionRows], *, recalls_at: Sequence[int] = (1, 10)
) -> AveragePrecision:
    """COCO's scores of all images together.

    Args:
        rows: of all images, in any order.
        recalls_at: numbers of detections an image and class at which the mean recall is given as well.
    """
    every = rows if isinstance(rows, DetectionRows) else DetectionRows.join(rows)
    order = np.lexsort((every.ranks, every.images, -every.scores, every.classes))
    sizes, num_classes = every.truths.shape
    shape = (num_classes, sizes, len(THRESHOLDS))
    table, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    first = {count: np.full(shape[:1] + shape[2:], np.nan) for count in recalls_at}
    edges = np.searchsorted(every.classes[order], np.arange(num_classes + 1))
    for kind in range(num_classes):
        chosen = order[edges[kind] : edges[kind + 1]]
        states, ranks = every.states[chosen], every.ranks[chosen]
        for size in range(sizes):
            total = int(every.truths[size, kind])
            if total:
                table[kind, size], recall[kind, size] = _curve(states[:, size], total)
        for count, values in first.items():
            if every.truths[0, kind]:
                values[kind] = (states[ranks < count, 0] == HIT).sum(axis=0) / every.truths[0, kind]
    return AveragePrecision(table, recall, {count: _mean(values) for count, values in first.items()})


def _curve(states: NDArray[np.uint8], total: int) -> tuple[Floats, Floats]:
    """(D, T) states by falling score -> (T,) average precision and (T,) recall reached."""
    hits = np.cumsum(states == HIT, axis=0).astype(np.float64)
    wrong = np.cumsum(states == WRONG, axis=0).astype(np.float64)
    if not len(states):
        return np.zeros(states.shape[1]), np.zeros(states.shape[1])
    precision = hits / np.maximum(hits + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = hits / total
    values = []
    for t in range(states.shape[1]):
        places = np.searchsorted(reached[:, t], RECALLS, side="left")
        found = envelope[np.minimum(places, len(states) - 1), t]
        values.append(np.where(places < len(states), found, 0.0).mean())
    return np.array(values), reached[-1]


def _means(table: Floats) -> Floats:
    """Mean of each row's numbers; NaN where it has none."""
    return np.array([_mean(row) for row in table])


def _mean(values: Floats) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
