"""Boundary scores of a set of images, from one row of counts and distances an image.

Rows of images measured in any order, by any number of processes, give the same scores to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.metrics.bootstrap import bootstrap_sums
from perpixel.metrics.boundary import CONTOUR_SHARE, band_counts, boundary_iou, contour_counts
from perpixel.metrics.label_pairs import diagonal
from perpixel.metrics.matches import exact_mean, match_f1
from perpixel.metrics.surface import surface_distances

Floats = NDArray[np.float64]

BOUNDARY_DEFINITIONS = {
    "bf": "mean over the images that hold class c of 2 P R / (P + R): P is the share of the predicted contour pixels "
    "of c that lie near its true contour, R the share of the true ones near the predicted one",
    "boundary_iou": "intersection over union of the bands along the inside of the outlines of class c, 2 % of the "
    "image's diagonal wide, pixels counted over the whole set",
    "hd95": "mean over images of the 95 % Hausdorff distance of class c in pixels: the larger of both directions' 95th "
    "percentiles of the distances between the outlines; the image's diagonal where only truth or prediction has c",
    "asd": "mean over images of the average symmetric distance between the outlines of class c in pixels; the image's "
    "diagonal where only truth or prediction has c",
    "nsd": "mean over images of the normalised surface distance of class c: the share of both outlines that lies near "
    "the other one; 0 where only truth or prediction has c",
    "bf_score": "mean over images of the mean of bf over the classes in the image's truth",
    "boundary_miou": "mean of boundary_iou over the classes that occur in truth or prediction",
    "mean_hd95": "mean of hd95 over the classes that occur in truth or prediction",
    "mean_asd": "mean of asd over the classes that occur in truth or prediction",
    "mean_nsd": "mean of nsd over the classes that occur in truth or prediction",
}
CLASS_KEYS = ("bf", "boundary_iou", "nsd", "hd95", "asd")
MEAN_KEYS = ("bf_score", "boundary_miou", "mean_nsd", "mean_hd95", "mean_asd")


@dataclass(frozen=True)
class BoundaryRow:
    """What one image adds.

    Attributes:
        bf: (K,) NaN where the truth lacks the class, or neither map has a contour of it.
        bands: (K, 3) int64, as `band_counts` gives them.
        distances: (K, 3) hd95, average and share within the tolerance; NaN where neither map has the class.
        one_sided: (K,) bool, where only one map has it.
    """

    bf: Floats
    bands: NDArray[np.int64]
    distances: Floats
    one_sided: NDArray[np.bool_]

    @property
    def bf_score(self) -> float:
        """Mean of bf over the classes of this image."""
        return exact_mean(self.bf)

    @property
    def hd95(self) -> float:
        """Mean of hd95 over the classes of this image."""
        return exact_mean(self.distances[:, 0])


def boundary_row(
    pred: Any, target: Any, *, num_classes: int, ignore_index: int | None = None, tolerance: float | None = None
) -> BoundaryRow:
    """Measure one image.

    Args:
        pred, target: (H, W) class ids.
        tolerance: in pixels, of BF score and normalised surface distance; None is 0.75 % of the image's diagonal.
    Raises:
        InputError: maps that do not fit together, ids out of range, a negative tolerance.
    """
    shape = np.shape(target)
    contours = contour_counts(pred, target, num_classes=num_classes, ignore_index=ignore_index, tolerance=tolerance)
    bands = band_counts(pred, target, num_classes=num_classes, ignore_index=ignore_index)
    surfaces = surface_distances(pred, target, num_classes=num_classes, ignore_index=ignore_index)
    far = diagonal(shape)
    near = CONTOUR_SHARE * far if tolerance is None else tolerance
    rows = [[each.hausdorff(one_sided=far), each.average(one_sided=far), each.within(near)] for each in surfaces]
    in_truth = np.array([len(each.from_target) > 0 for each in surfaces])  # every class has a surface where it occurs
    return BoundaryRow(
        bf=np.where(in_truth, match_f1(contours), np.nan),
        bands=bands,
        distances=np.array(rows),
        one_sided=np.array([each.is_one_sided for each in surfaces]),
    )


def boundary_scores(rows: Sequence[BoundaryRow], names: Sequence[str]) -> dict[str, Any]:
    """Scores of all images: {"scores", "per_class", "definitions"}; None where nothing was there to measure.

    Args:
        rows: one an image, in any order.
        names: one name a class.
    """
    if not rows:
        raise InputError("no rows: measure one image or more")
    if len(names) != len(rows[0].bf):
        raise InputError(f"{len(names)} class names for {len(rows[0].bf)} classes: give one name a class")
    bands = np.sum([row.bands for row in rows], axis=0)
    columns: dict[str, list[float]] = {
        "bf": [exact_mean(row.bf[k] for row in rows) for k in range(len(names))],
        "boundary_iou": boundary_iou(bands).tolist(),
    }
    for place, key in enumerate(("hd95", "asd", "nsd")):
        columns[key] = [exact_mean(row.distances[k, place] for row in rows) for k in range(len(names))]
    means = {
        "bf_score": exact_mean(row.bf_score for row in rows),
        "boundary_miou": exact_mean(columns["boundary_iou"]),
        **{f"mean_{key}": exact_mean(columns[key]) for key in ("nsd", "hd95", "asd")},
    }
    one_sided = np.sum([row.one_sided for row in rows], axis=0)
    per_class = [
        {"name": name, **{key: _plain(columns[key][k]) for key in CLASS_KEYS}, "one_sided_images": int(one_sided[k])}
        for k, name in enumerate(names)
    ]
    return {
        "scores": {key: _plain(means[key]) for key in MEAN_KEYS},
        "per_class": per_class,
        "definitions": dict(BOUNDARY_DEFINITIONS),
    }


def boundary_intervals(
    rows: Sequence[BoundaryRow], *, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> dict[str, list[float | None]]:
    """95 % bootstrap intervals over images of `bf_score` and `boundary_miou`: name -> [low, high]."""
    values = np.array([row.bf_score for row in rows])
    there = ~np.isnan(values)
    pairs = np.stack([np.where(there, values, 0), there], axis=1)
    found = bootstrap_sums(pairs, {"bf_score": _ratio_of_sums}, seed=seed, groups=groups)
    bands = np.stack([row.bands for row in rows])
    found |= bootstrap_sums(bands, {"boundary_miou": _mean_boundary_iou}, seed=seed, groups=groups)
    return {name: [_plain(float(low)), _plain(float(high))] for name, (low, high) in found.items()}


def _ratio_of_sums(sums: Floats) -> Floats:
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _mean_boundary_iou(sums: Floats) -> Floats:
    iou = boundary_iou(sums)
    there = ~np.isnan(iou)
    return _ratio_of_sums(np.stack([np.where(there, iou, 0).sum(axis=1), there.sum(axis=1)], axis=1))


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
