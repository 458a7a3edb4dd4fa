"""Distances between the surfaces of a class in two maps: Hausdorff, average, and the share within a tolerance.

The surface of a mask is the mask less its erosion by a cross (4 neighbours; 6 in volumes). What lies outside the image
or is not labelled is outside the mask, so a mask has a surface there. Distances run from pixel centre to pixel centre,
in units of `spacing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.metrics.boundary import contour_map
from perpixel.metrics.label_pairs import OUTSIDE, IntMap, as_spacing, label_pair

Floats = NDArray[np.float64]
POOLINGS = ("directed", "pooled")


@dataclass(frozen=True)
class SurfaceDistances:
    """Of every surface pixel, the distance to the nearest one of the other map; empty where a map lacks the class.

    Attributes:
        from_pred: (P,) of each predicted surface pixel to the true surface; inf where there is none.
        from_target: (T,) of each true surface pixel to the predicted surface; inf where there is none.
    """

    from_pred: Floats
    from_target: Floats

    @property
    def is_absent(self) -> bool:
        """Neither map has the class."""
        return not len(self.from_pred) and not len(self.from_target)

    @property
    def is_one_sided(self) -> bool:
        """Only one of the maps has the class."""
        return (len(self.from_pred) == 0) != (len(self.from_target) == 0)

    def hausdorff(self, percentile: float = 95, *, of: str = "directed", one_sided: float = math.inf) -> float:
        """The Hausdorff distance, or a percentile in place of the largest distance.

        Args:
            percentile: 100 is the classical distance, 95 the robust one of the challenges. Between two distances it
                is interpolated.
            of: "directed" takes the larger of both directions' percentiles, as MONAI and DeepMind's surface-distance
                do; "pooled" the percentile of all distances together, as medpy does.
            one_sided: value where only one map has the class, such as the image's diagonal.
        Returns:
            NaN where neither map has the class.
        Raises:
            InputError: a percentile outside 0..100, an unknown pooling.
        """
        if not 0 <= percentile <= 100:
            raise InputError(f"percentile is {percentile}: give 0 to 100, as 95")
        if of not in POOLINGS:
            raise InputError(f"of is '{of}': choose one of {', '.join(POOLINGS)}")
        if self.is_absent or self.is_one_sided:
            return math.nan if self.is_absent else one_sided
        if of == "pooled":
            return float(np.percentile(np.concatenate([self.from_pred, self.from_target]), percentile))
        return float(max(np.percentile(each, percentile) for each in (self.from_pred, self.from_target)))

    def average(self, *, one_sided: float = math.inf) -> float:
        """Average symmetric surface distance: the mean over the surface pixels of both maps.

        Returns:
            NaN where neither map has the class, `one_sided` where only one has.
        """
        if self.is_absent or self.is_one_sided:
            return math.nan if self.is_absent else one_sided
        total = float(self.from_pred.sum() + self.from_target.sum())
        return total / (len(self.from_pred) + len(self.from_target))

    def within(self, tolerance: float) -> float:
        """Normalised surface distance (surface Dice): the share of both surfaces no further than `tolerance` away.

        Every surface pixel counts alike. Nikolov et al. weigh them by the area of a surface laid between the pixels: on
        random blobs that was 0.01 away on average, 0.03 at most.

        Returns:
            NaN where neither map has the class, 0 where only one has.
        Raises:
            InputError: a negative tolerance.
        """
        if not tolerance >= 0:
            raise InputError(f"tolerance is {tolerance}: give a distance, 0 or more")
        if self.is_absent:
            return math.nan
        near = int((self.from_pred <= tolerance).sum() + (self.from_target <= tolerance).sum())
        return near / (len(self.from_pred) + len(self.from_target))


def surface_distances(
    pred: Any,
    target: Any,
    *,
    num_classes: int = 2,
    ignore_index: int | None = None,
    spacing: Sequence[float] | None = None,
) -> list[SurfaceDistances]:
    """Distances of each class, between a predicted and a true label map.

    Args:
        pred, target: (H, W) or (D, H, W) class ids; two masks are two classes, the object is class 1.
        spacing: size of a pixel along each axis, in the order of the axes; None is 1, so that distances are pixels.
    Returns:
        K entries, one a class.
    Raises:
        InputError: maps that do not fit together, ids out of range, a spacing that is not one positive number an axis.
    References:
        Taha, Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Medical Imaging 2015. Nikolov et al.,
        "Deep learning to achieve clinically applicable segmentation of head and neck anatomy", 2018.
    """
    maps = label_pair(pred, target, num_classes, ignore_index)
    sizes = as_spacing(spacing, maps[0].ndim)
    surfaces = [_surface(each) for each in maps]
    shape = maps[0].shape
    split = [_split_by_class(each, num_classes) for each in surfaces]
    result = []
    for label in range(num_classes):
        ours, theirs = split[0][label], split[1][label]
        result.append(
            SurfaceDistances(
                _distances(ours, theirs, surfaces[1], label, shape, sizes),
                _distances(theirs, ours, surfaces[0], label, shape, sizes),
            )
        )
    return result


def _surface(labels: IntMap) -> IntMap:
    """Flat map, without margin, of the class at each surface pixel; OUTSIDE elsewhere."""
    padded = np.pad(labels, 1, constant_values=OUTSIDE)
    strides = np.array([int(np.prod(padded.shape[axis + 1 :])) for axis in range(labels.ndim)], dtype=np.int64)
    edges = contour_map(padded, strides, frame=True).reshape(padded.shape)
    return np.ascontiguousarray(edges[(slice(1, -1),) * labels.ndim]).ravel()


def _split_by_class(surface: IntMap, num_classes: int) -> list[NDArray[np.int64]]:
    """Flat places of the surface pixels of each class."""
    places = np.flatnonzero(surface >= 0)
    labels = surface[places]
    ordered = places[np.argsort(labels, kind="stable")]
    return np.split(ordered, np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])


def _distances(
    places: NDArray[np.int64],
    others: NDArray[np.int64],
    other_surface: IntMap,
    label: int,
    shape: tuple[int, ...],
    sizes: Floats,
) -> Floats:
    """Distance of each of `places` to the nearest of `others`."""
    if not len(others):
        return np.full(len(places), math.inf)
    distances = np.zeros(len(places))
    apart = other_surface[places] != label  # a pixel on both surfaces is at distance 0, and most are
    if apart.any():
        from scipy.spatial import cKDTree  # takes a fifth of a second to import

        # A tree over the few surface pixels costs less than a distance transform of the whole image, and takes any
        # spacing and number of axes. Equal distances are the same bits in whatever order the pixels stand.
        tree = cKDTree(_points(others, shape, sizes))
        distances[apart] = tree.query(_points(places[apart], shape, sizes))[0]
    return distances


def _points(places: NDArray[np.int64], shape: tuple[int, ...], sizes: Floats) -> Floats:
    return np.stack(np.unravel_index(places, shape), axis=1) * sizes
