"""Scores of a division into objects, as the electron microscopy challenges use them: V_Rand, V_Info, Rand error.

They ask of pairs of pixels: are two that belong to one object together, and two of different objects apart? One gap
in a membrane merges two cells, costs a few pixels of accuracy, and here a good part of the score.

All start from counts: how many pixels each pair of a true and a predicted object shares, and the sizes of both. Counts
of several sections stand side by side, so that sections measured in any order give the same scores to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.metrics.label_pairs import as_map

OBJECT_DEFINITIONS = {
    "v_rand": "2 sum p_ij^2 / (sum s_i^2 + sum t_j^2), p_ij the share of pixels in predicted object i and true object "
    "j, s_i and t_j their sums; only pixels inside true objects count, predicted borders are thinned first",
    "v_info": "2 I(S; T) / (H(S) + H(T)): mutual information of predicted and true objects over their mean entropy; "
    "only pixels inside true objects count, predicted borders are thinned first",
    "rand_error": "1 - V_Rand without thinning: the adapted Rand error of the ISBI 2012 challenge at one threshold",
}


@dataclass(frozen=True)
class ObjectCounts:
    """Sizes in pixels of the parts that two divisions into objects make of an image.

    Attributes:
        shared: of each pair of objects that overlap.
        pred, target: of each predicted and each true object, within the pixels that count.
    """

    shared: NDArray[np.int64]
    pred: NDArray[np.int64]
    target: NDArray[np.int64]

    @staticmethod
    def join(parts: Iterable[ObjectCounts]) -> ObjectCounts:
        """Counts of several sections; objects of different sections are different objects."""
        found = list(parts)
        empty = [np.zeros(0, np.int64)]
        return ObjectCounts(
            *(np.sort(np.concatenate(empty + [getattr(part, name) for part in found])) for name in _SIDES)
        )

    def rand(self) -> PairScores:
        """V_Rand: split = sum p^2 / sum t^2, merge = sum p^2 / sum s^2, both together 2 sum p^2 / (sum s^2 + sum t^2).

        NaN where no pixel counts.
        """
        shared, pred, target = (sum(int(n) * int(n) for n in getattr(self, name)) for name in _SIDES)
        if not shared:
            return PairScores(math.nan, math.nan, math.nan)
        return PairScores(2 * shared / (pred + target), shared / target, shared / pred)

    def info(self) -> PairScores:
        """V_Info: split = I / H(S), merge = I / H(T), both together 2 I / (H(S) + H(T)).

        A division into one object has no entropy: a ratio over it is 1. NaN where no pixel counts.
        """
        total = int(self.target.sum())
        if not total:
            return PairScores(math.nan, math.nan, math.nan)
        joint, pred, target = (_entropy(getattr(self, name), total) for name in _SIDES)
        # Where both divisions are alike the three entropies are the same bits, so that the score is exactly 1.
        mutual = max(0.0, pred + target - joint)
        return PairScores(
            2 * mutual / (pred + target) if pred + target else 1.0,
            min(1.0, mutual / pred) if pred else 1.0,
            min(1.0, mutual / target) if target else 1.0,
        )


_SIDES = ("shared", "pred", "target")


@dataclass(frozen=True)
class PairScores:
    """A score of 0..1, 1 best, and its two sides: `split` is low where objects were cut apart, `merge` where they were
    joined."""

    score: float
    split: float
    merge: float


def _entropy(sizes: NDArray[np.int64], total: int) -> float:
    """Entropy in nats of parts of these sizes; the same bits in whatever order they come."""
    return math.fsum(-n / total * math.log(n / total) for n in sizes.tolist() if n)


def object_counts(pred: Any, target: Any) -> ObjectCounts:
    """Compare two instance maps, within the true objects.

    Args:
        pred, target: (H, W) or (D, H, W) object ids; 0 is border or background. Pixels where the target is 0 are left
            out (foreground restriction). A pixel inside a true object whose prediction is 0 is an object of its own.
    Raises:
        InputError: shapes differ, values are not whole numbers.
    Reference:
        Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
        Frontiers in Neuroanatomy 2015.
    """
    pred_ids, target_ids = as_map(pred, "pred"), as_map(target, "target")
    if pred_ids.shape != target_ids.shape:
        raise InputError(
            f"pred {pred_ids.shape} and target {target_ids.shape} differ in shape: resize the prediction to the truth"
        )
    inside = target_ids != 0
    ours, theirs = pred_ids[inside].astype(np.int64), target_ids[inside].astype(np.int64)
    _, row, pred_sizes = np.unique(ours, return_inverse=True, return_counts=True)
    _, column, target_sizes = np.unique(theirs, return_inverse=True, return_counts=True)
    alone = ours == 0
    keys = row[~alone] * len(target_sizes) + column[~alone]
    shared = np.unique(keys, return_counts=True)[1]
    if alone.any():  # each pixel predicted as border: a part of one pixel
        ones = np.ones(int(alone.sum()), np.int64)
        pred_sizes = np.delete(pred_sizes, row[alone][0])
        shared, pred_sizes = np.concatenate([shared, ones]), np.concatenate([pred_sizes, ones])
    return ObjectCounts(*(np.sort(sizes).astype(np.int64) for sizes in (shared, pred_sizes, target_sizes)))


def connected_objects(mask: ArrayLike) -> NDArray[np.int32]:
    """Number the connected parts of a mask, 1..n; 0 outside. Pixels that meet by a corner only are apart (4 neighbours,
    6 in volumes), as in the challenge: a diagonal membrane one pixel thin keeps two cells apart."""
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise InputError(f"mask is {array.dtype}: give bool, True inside the objects")
    return ndimage.label(array)[0].astype(np.int32)


def thin_borders(instance_map: ArrayLike) -> NDArray[np.int32]:
    """Let all objects grow until the borders (0) between them are one pixel thin.

    Each border pixel goes to the object nearest to it; of the two pixels that then meet across a border the one with
    the higher coordinate stays border. So the width in which a net draws its borders does not count. A map without
    objects stays as it is.
    """
    ids = as_map(instance_map, "instance_map").astype(np.int32)
    border = ids == 0
    if not border.any() or border.all():
        return ids
    nearest = ndimage.distance_transform_edt(border, return_distances=False, return_indices=True)
    grown = ids[tuple(nearest)]
    thin = grown.copy()
    for axis in range(ids.ndim):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(ids.ndim))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(ids.ndim))
        meet = grown[low] != grown[high]
        # what was an object stays one
        at_high = meet & border[high]
        at_low = meet & ~border[high] & border[low]
        thin[high][at_high] = 0
        thin[low][at_low] = 0
    return thin


def best_threshold(
    probability: ArrayLike, target: ArrayLike, *, thresholds: Sequence[float] | None = None, thin: bool = True
) -> tuple[float, ObjectCounts]:
    """The threshold of a map of object probabilities at which V_Rand is highest, and the counts there.

    So the challenge scored submissions; with `thin=False` and `1 - counts.rand().score` it is the old Rand error, the
    one in the table of the U-Net paper. A threshold chosen on the test images flatters: choose it on others.

    Args:
        probability: (H, W), or (N, H, W) sections that are divided each by itself; 1 inside objects, 0 on borders.
        target: true instance map, or a mask whose connected parts are the objects; of the same shape.
        thresholds: between 0 and 1; None is 0.1, 0.2, ... 0.9.
    Raises:
        InputError: shapes differ, no threshold.
    """
    chances, truth = np.asarray(probability), np.asarray(target)
    if chances.shape != truth.shape or chances.ndim not in (2, 3):
        raise InputError(f"probability {chances.shape} and target {truth.shape}: give two of one shape, (N, H, W)")
    levels = [k / 10 for k in range(1, 10)] if thresholds is None else list(thresholds)
    if not levels:
        raise InputError("thresholds is empty: give one or more between 0 and 1")
    sections = [(chances, truth)] if chances.ndim == 2 else list(zip(chances, truth))
    objects = [connected_objects(true) if true.dtype == np.bool_ else true for _, true in sections]
    best: tuple[float, ObjectCounts] | None = None
    for level in levels:
        parts = []
        for (chance, _), true in zip(sections, objects):
            found = connected_objects(chance > level)
            parts.append(object_counts(thin_borders(found) if thin else found, true))
        counts = ObjectCounts.join(parts)
        if best is None or counts.rand().score > best[1].rand().score:
            best = level, counts
    assert best is not None
    return best
