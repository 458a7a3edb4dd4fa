"""Scores of objects matched one to one: precision, recall, F1 and the AP of cell counting at several IoU, the
aggregated Jaccard index, and the boundary IoU of matched objects. From label maps or from `Instances`.

All start from whole numbers that add up over images, batches, processes and machines to the same numbers, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.labels import Instances, overlap_table, overlaps, union_of
from perpixel.metrics.matches import match_f1, match_precision, match_recall
from perpixel.metrics.object_bands import band_overlaps
from perpixel.metrics.object_overlaps import SHARE_UNIT, Floats, Ints, assign, best_pairs, to_units, union_ratios

THRESHOLDS = tuple((50 + 5 * step) / 100 for step in range(10))
# A prediction that is not matched and lies by more than this in a crowd of its class, or in the void, is not wrong.
LEFT_OUT_SHARE = 0.5

INSTANCE_DEFINITIONS = {
    "precision": "TP / (TP + FP): share of the predicted objects that are matched with a true one of their class, one "
    "to one, at an IoU of the threshold or above",
    "recall": "TP / (TP + FN): share of the true objects that are matched",
    "f1": "2 TP / (2 TP + FP + FN)",
    "average_precision": "TP / (TP + FP + FN) at one IoU threshold, as StarDist and the 2018 Data Science Bowl have "
    "it: no curve over scores, so it cannot be compared with COCO's AP; mean_ap is its mean over 0.50, 0.55, ... 0.95",
    "matched_iou": "mean IoU of the matched pairs",
    "aji": "aggregated Jaccard index: each true object with the predicted one of highest IoU; sum of their shared "
    "pixels over the sum of their unions and of all predicted objects that no true one took (Kumar et al. 2017)",
    "aji_plus": "as aji, but pairs are one to one, those with the highest sum of IoU (Graham et al. 2019)",
    "boundary_iou": "mean over the pairs matched at IoU 0.5 of the IoU of the bands along the inside of their "
    "outlines, 2 % of the image's diagonal wide",
}


@dataclass(frozen=True, eq=False)
class InstanceCounts:
    """What a set of images adds. K classes, background (class 0) included; T thresholds.

    Attributes:
        thresholds: of IoU.
        matches: (K, T, 4) int64: predicted, predicted and matched, true, true and matched, as in `matches.py`.
        matched: (K, T) int64 sum of the IoU of matched pairs, in units of 2^-32.
        jaccard: (K, 4) int64 pixels: shared and union of AJI, shared and union of AJI+.
        bands: (K, 2) int64: pairs matched at IoU 0.5, and the sum of their boundary IoU in units of 2^-32.
    """

    thresholds: tuple[float, ...]
    matches: Ints
    matched: Ints
    jaccard: Ints
    bands: Ints

    def __add__(self, other: InstanceCounts) -> InstanceCounts:
        if self.thresholds != other.thresholds or len(self.matches) != len(other.matches):
            raise InputError("counts of other thresholds or classes: measure all images alike")
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("matches", "matched", "jaccard", "bands")}
        return InstanceCounts(self.thresholds, **sums)

    @staticmethod
    def join(parts: Iterable[InstanceCounts]) -> InstanceCounts:
        """The sum of one or more."""
        found = list(parts)
        if not found:
            raise InputError("no image was measured: give the counts of one or more")
        total = found[0]
        for part in found[1:]:
            total = total + part
        return total


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Objects of one class in one image, and the pairs that overlap."""

    rows: Ints
    cols: Ints
    shared: Ints
    pred_areas: Ints
    target_areas: Ints

    @property
    def ratios(self) -> Floats:
        return union_ratios(self.shared, self.pred_areas[self.rows], self.target_areas[self.cols])


def instance_counts(
    pred: Instances | Any,
    target: Instances | Any,
    *,
    num_classes: int = 2,
    thresholds: Sequence[float] = THRESHOLDS,
    boundary: bool = True,
    band: int | None = None,
) -> InstanceCounts:
    """Match the objects of one image.

    Args:
        pred, target: both `Instances`, whose objects may overlap and are matched within their classes, or both
            instance maps (H, W), 0 = background, whose objects are all of class 1.
        num_classes: K, background (class 0) included.
        thresholds: of IoU, above 0 to 1; at and above one a pair may be matched.
        boundary: also measure outlines (half of the time; 2-D only).
        band: width of the bands along outlines in pixels; None is 2 % of the diagonal.
    Crowds in the truth are no objects: predictions that are not matched and lie by more than half in a crowd of their
    class, or in the void, are left out. The scores of predictions do not matter.

    Raises:
        InputError: sizes differ, one is a label map and the other is not, classes or thresholds out of range.
    """
    levels = tuple(float(level) for level in thresholds)
    if not levels or not all(0 < level <= 1 for level in levels):
        raise InputError(f"thresholds {list(thresholds)}: give IoU above 0 and up to 1")
    if isinstance(pred, Instances) and isinstance(target, Instances):
        return _of_instances(pred, target, num_classes, levels, boundary, band)
    if isinstance(pred, Instances) or isinstance(target, Instances):
        raise InputError("pred and target: give two Instances or two instance maps, not one of each")
    if boundary:
        maps = (Instances.from_label_map(pred), Instances.from_label_map(target))
        return _of_instances(*maps, num_classes, levels, True, band)
    table = overlap_table(pred, target)
    pairs = _Pairs(table.rows, table.cols, table.shared, table.pred_areas, table.target_areas)
    counts = _no_counts(num_classes, levels)
    _count(counts, 1, pairs, np.zeros(len(table.pred_ids), bool))
    return counts


def _no_counts(num_classes: int, levels: tuple[float, ...]) -> InstanceCounts:
    shapes = ((num_classes, len(levels), 4), (num_classes, len(levels)), (num_classes, 4), (num_classes, 2))
    return InstanceCounts(levels, *(np.zeros(shape, np.int64) for shape in shapes))


def _of_instances(
    pred: Instances,
    target: Instances,
    num_classes: int,
    levels: tuple[float, ...],
    boundary: bool,
    band: int | None,
) -> InstanceCounts:
    for name, given in (("pred", pred), ("target", target)):
        if ((given.classes < 0) | (given.classes >= num_classes)).any():
            raise InputError(f"{name} holds class {given.classes.max()}, outside 0..{num_classes - 1}")
    if pred.size != target.size:
        raise InputError(
            f"pred {pred.size} and target {target.size} differ in size: resize the prediction to the truth"
        )
    counts = _no_counts(num_classes, levels)
    pred, crowds, target = pred.without_crowds(), target.take(target.is_crowd), target.without_crowds()
    for kind in np.union1d(pred.classes, target.classes).tolist():
        ours, theirs = pred.take(pred.classes == kind), target.take(target.classes == kind)
        rows, cols, shared = overlaps(ours.masks, theirs.masks)
        pairs = _Pairs(rows, cols, shared, ours.masks.areas, theirs.masks.areas)
        excused = _excused(ours, crowds.take((crowds.classes == kind) | (crowds.classes == 0)))
        _count(counts, kind, pairs, excused)
        if boundary:
            _count_bands(counts, kind, ours, theirs, pairs, band)
    return counts


def _excused(pred: Instances, crowds: Instances) -> NDArray[np.bool_]:
    """(N,) whether more than half of each object lies in crowds or void."""
    found = np.zeros(len(pred), bool)
    if len(crowds):
        rows, _, shared = overlaps(pred.masks, union_of(crowds.masks))
        found[rows] = shared > LEFT_OUT_SHARE * pred.masks.areas[rows]
    return found


def _count(counts: InstanceCounts, kind: int, pairs: _Pairs, excused: NDArray[np.bool_]) -> None:
    """Add the objects of one class."""
    num_pred, num_target = len(pairs.pred_areas), len(pairs.target_areas)
    ratios = pairs.ratios
    for place, level in enumerate(counts.thresholds):
        good = np.flatnonzero(ratios >= level)
        pairs_kept = good[best_pairs(pairs.rows[good], pairs.cols[good], ratios[good])]
        is_matched = np.zeros(num_pred, bool)
        is_matched[pairs.rows[pairs_kept]] = True
        counted = num_pred - int((excused & ~is_matched).sum())
        counts.matches[kind, place] += (counted, len(pairs_kept), num_target, len(pairs_kept))
        counts.matched[kind, place] += to_units(ratios[pairs_kept]).sum()
    counts.jaccard[kind, :2] += _aggregated(pairs, _best_of_each(pairs), excused)
    counts.jaccard[kind, 2:] += _aggregated(pairs, assign(pairs.rows, pairs.cols, ratios), excused)


def _best_of_each(pairs: _Pairs) -> Ints:
    """For each true object that is met at all, the pair with the highest IoU; of equal ones the first."""
    order = np.lexsort((pairs.rows, -pairs.ratios, pairs.cols))
    is_first = np.concatenate([[True], np.diff(pairs.cols[order]) != 0]) if len(order) else np.zeros(0, bool)
    return order[is_first]


def _aggregated(pairs: _Pairs, chosen: Ints, excused: NDArray[np.bool_]) -> tuple[int, int]:
    """Shared pixels and union: chosen pairs, true objects without one, and predicted ones that no pair uses."""
    shared = int(pairs.shared[chosen].sum())
    union = int((pairs.pred_areas[pairs.rows[chosen]] + pairs.target_areas[pairs.cols[chosen]]).sum()) - shared
    missed = np.ones(len(pairs.target_areas), bool)
    missed[pairs.cols[chosen]] = False
    unused = ~excused
    unused[pairs.rows[chosen]] = False
    return shared, union + int(pairs.target_areas[missed].sum()) + int(pairs.pred_areas[unused].sum())


def _count_bands(
    counts: InstanceCounts, kind: int, pred: Instances, target: Instances, pairs: _Pairs, band: int | None
) -> None:
    ratios = pairs.ratios
    good = np.flatnonzero(ratios >= 0.5)
    good = good[best_pairs(pairs.rows[good], pairs.cols[good], ratios[good])]
    rows, cols = pairs.rows[good], pairs.cols[good]
    places = np.arange(len(good))
    ours, theirs = pred.masks.take(rows), target.masks.take(cols)
    shared, pred_areas, target_areas = band_overlaps(ours, theirs, places, places, band)
    counts.bands[kind] += (len(good), int(to_units(union_ratios(shared, pred_areas, target_areas)).sum()))


@dataclass(frozen=True, eq=False)
class InstanceScores:
    """Scores of objects; NaN where neither truth nor prediction has an object of the class, or of any.

    Attributes:
        precision, recall, f1, average_precision, matched_iou: (K, T) by class and threshold. Where only one side has
            objects, F1 and average precision are 0.
        aji, aji_plus, boundary_iou: (K,)
        overall: the same of all classes together, by name; those by threshold as (T,) arrays.
    """

    thresholds: tuple[float, ...]
    precision: Floats
    recall: Floats
    f1: Floats
    average_precision: Floats
    matched_iou: Floats
    aji: Floats
    aji_plus: Floats
    boundary_iou: Floats
    overall: dict[str, Any]

    def summary(self) -> dict[str, float]:
        """Scores of all classes together: ap_50, f1_50, ... by threshold in per cent, mean_ap, aji, ..."""
        found: dict[str, float] = {}
        for name, short in (
            ("average_precision", "ap"),
            ("f1", "f1"),
            ("precision", "precision"),
            ("recall", "recall"),
        ):
            found |= {f"{short}_{round(100 * t)}": float(v) for t, v in zip(self.thresholds, self.overall[name])}
        found["mean_ap"] = float(np.mean(self.overall["average_precision"]))
        found["mean_f1"] = float(np.mean(self.overall["f1"]))
        return found | {name: float(self.overall[name]) for name in ("aji", "aji_plus", "boundary_iou")}


def instance_scores(counts: InstanceCounts) -> InstanceScores:
    """The formulas on the counts."""
    by_class = _formulas(counts.matches, counts.matched, counts.jaccard, counts.bands)
    sums = (part.sum(axis=0) for part in (counts.matches, counts.matched, counts.jaccard, counts.bands))
    return InstanceScores(counts.thresholds, **by_class, overall=_formulas(*sums))


def _formulas(matches: Ints, matched: Ints, jaccard: Ints, bands: Ints) -> dict[str, Any]:
    hits = matches[..., 1]
    return {
        "precision": match_precision(matches),
        "recall": match_recall(matches),
        "f1": match_f1(matches),
        "average_precision": _ratio(hits, matches[..., 0] + matches[..., 2] - hits),
        "matched_iou": _ratio(matched * SHARE_UNIT, hits),
        "aji": _ratio(jaccard[..., 0], jaccard[..., 1]),
        "aji_plus": _ratio(jaccard[..., 2], jaccard[..., 3]),
        "boundary_iou": _ratio(bands[..., 1] * SHARE_UNIT, bands[..., 0]),
    }


def _ratio(above: Any, below: Any) -> Floats:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
