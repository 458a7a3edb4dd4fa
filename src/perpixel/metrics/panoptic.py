"""Panoptic quality: PQ = SQ x RQ. Counts of an image add up with those of others, exactly and in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.labels import Instances, Runs, overlaps, union_of
from perpixel.metrics.object_overlaps import SHARE_UNIT, Floats, Ints, to_units

# Above this IoU no object can have two partners, since objects of one map do not overlap.
MATCH_ABOVE = 0.5
# A prediction that lies by more than this in the void or in a crowd of its class is no false one.
LEFT_OUT_SHARE = 0.5

PANOPTIC_DEFINITIONS = {
    "pq": "panoptic quality: sum of the IoU of matched pairs / (TP + FP / 2 + FN / 2); a pair of one class is matched "
    "above IoU 0.5, where void pixels do not count; mean over the classes that occur",
    "sq": "segmentation quality: mean IoU of the matched pairs",
    "rq": "recognition quality: TP / (TP + FP / 2 + FN / 2), the F1 of the objects",
}


@dataclass(frozen=True, eq=False)
class PanopticQuality:
    """Scores by class; NaN for classes that occur in neither truth nor prediction (SQ: where nothing is matched).

    Attributes:
        pq, sq, rq: (K,)
        counts: (K, 4) what they come from.
    """

    pq: Floats
    sq: Floats
    rq: Floats
    counts: Ints

    def summary(self) -> dict[str, float]:
        """Means over the classes that occur; a class without a match has SQ 0 there, as with its authors."""
        seen = self.counts[:, :3].sum(axis=1) > 0
        columns = {"pq": self.pq, "sq": np.nan_to_num(self.sq), "rq": self.rq}
        return {name: float(values[seen].mean()) if seen.any() else float("nan") for name, values in columns.items()}


def panoptic_counts(pred: Instances, target: Instances, *, num_classes: int) -> Ints:
    """Match the objects of one image. Classes of stuff are objects too: one an image.

    Args:
        pred, target: objects that overlap are laid over each other first (`without_overlaps`: high scores, then small
            ones on top). Crowds of class 0 in the truth are void, other crowds excuse predictions of their class.
        num_classes: K, background (class 0) included.
    Returns:
        (K, 4) int64: true positives, false positives, false negatives, and the sum of the IoU of the true positives in
        units of 2^-32. Tables of several images add up.
    Raises:
        InputError: sizes differ, classes out of range.
    Reference:
        Kirillov et al., "Panoptic segmentation", CVPR 2019, and its evaluation code.
    """
    for name, given in (("pred", pred), ("target", target)):
        if ((given.classes < 0) | (given.classes >= num_classes)).any():
            raise InputError(f"{name} holds class {given.classes.max()}, outside 0..{num_classes - 1}")
    if pred.size != target.size:
        raise InputError(
            f"pred {pred.size} and target {target.size} differ in size: resize the prediction to the truth"
        )
    crowds = target.take(target.is_crowd)
    ours, theirs = pred.without_overlaps(), target.without_overlaps()
    void = _inside(ours, _beside(crowds.take(crowds.classes == 0), theirs))
    rows, cols, shared = overlaps(ours.masks, theirs.masks, (ours.classes, theirs.classes))
    union = ours.masks.areas[rows] + theirs.masks.areas[cols] - shared - void[rows]
    ratios = shared / np.maximum(union, 1)
    hit = ratios > MATCH_ABOVE
    counts = np.zeros((num_classes, 4), np.int64)
    np.add.at(counts[:, 0], theirs.classes[cols[hit]], 1)
    np.add.at(counts[:, 3], theirs.classes[cols[hit]], to_units(ratios[hit]))
    wrong = np.ones(len(ours), bool)
    wrong[rows[hit]] = False
    for kind in range(num_classes):
        of_kind = ours.classes == kind
        excused = _inside(ours, crowds.take((crowds.classes == kind) | (crowds.classes == 0)))
        lonely = wrong & of_kind & ~(excused > LEFT_OUT_SHARE * ours.masks.areas)
        counts[kind, 1] = lonely.sum()
        counts[kind, 2] = (theirs.classes == kind).sum() - counts[kind, 0]
    return counts


def _beside(void: Instances, objects: Instances) -> Instances:
    """The void as one region, less what is an object."""
    if not len(void):
        return void
    region = union_of(void.masks).mask(0) & ~union_of(objects.masks).mask(0)
    return Instances.of(Runs.from_masks([region]), 0, is_crowd=True)


def _inside(pred: Instances, crowds: Instances) -> NDArray[np.int64]:
    """(N,) pixels of each object that lie in one of the regions."""
    found = np.zeros(len(pred), np.int64)
    if len(crowds):
        rows, _, shared = overlaps(pred.masks, union_of(crowds.masks))
        found[rows] = shared
    return found


def panoptic_quality(counts: Ints) -> PanopticQuality:
    """(K, 4) counts -> scores."""
    table = np.asarray(counts, np.int64)
    hits, size = table[:, 0].astype(np.float64), table[:, 0] + (table[:, 1] + table[:, 2]) / 2
    total = table[:, 3] * SHARE_UNIT
    nothing = np.full(len(table), np.nan)
    return PanopticQuality(
        np.divide(total, size, out=nothing.copy(), where=size > 0),
        np.divide(total, hits, out=nothing.copy(), where=hits > 0),
        np.divide(hits, size, out=nothing.copy(), where=size > 0),
        table,
    )
