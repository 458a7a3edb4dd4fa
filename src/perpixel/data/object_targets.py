"""What a net with a hill on every object learns: class, height and contact of each pixel, from the objects of a crop.

    height = d / (d + c), brought to 1 at its highest, where d is the distance to the object's border and c that to its
    middle. Border distance alone has a ridge along a long object, and a dent of the outline cuts the ridge in two; the
    distance to the middle makes one top of it, and large and small objects have hills of one height.

The idea of one top for each object is Cellpose's (Stringer et al. 2021, there by diffusion from the middle), that of a
height free of the size Deep Watershed's (Bai and Urtasun 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Value of the class map where nothing is known: in crowds.
UNKNOWN = 255


@dataclass(frozen=True, eq=False)
class ObjectTargets:
    """Targets of one crop.

    Attributes:
        label_map: (h, w) int64 class of each pixel, 0 background, `UNKNOWN` in crowds.
        height: (h, w) float32 in 0..1, 0 outside objects.
        contact: (h, w) bool: two objects lie within reach.
    """

    label_map: NDArray[np.int64]
    height: NDArray[np.float32]
    contact: NDArray[np.bool_]


def object_targets(
    layers: NDArray[np.int32], classes: NDArray[np.int64], is_crowd: NDArray[np.bool_], *, reach: int = 1
) -> ObjectTargets:
    """The targets of the objects of one crop.

    Args:
        layers: (L, h, w); number i marks object i, 0 is none. Where objects overlap, a pixel is the smaller one's.
        classes, is_crowd: (n,) of object i at i - 1.
        reach: contact is where a second object lies within so many rows and columns.
    """
    instance_map = flatten_layers(layers, is_crowd)
    numbers = np.concatenate([[0], np.where(is_crowd, UNKNOWN, classes)])
    label_map = numbers[instance_map].astype(np.int64)
    singles = np.concatenate([[0], np.where(is_crowd, 0, np.arange(1, len(classes) + 1))])[instance_map]
    return ObjectTargets(label_map, object_heights(singles), object_contacts(singles, reach=reach))


def flatten_layers(layers: NDArray[np.int32], is_crowd: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(h, w): the smallest object of each pixel, crowds below all others."""
    if len(layers) == 1:
        return layers[0]
    areas = np.bincount(layers.ravel(), minlength=len(is_crowd) + 1).astype(np.float64)
    areas[1:][is_crowd] += layers.size
    areas[0] = np.inf
    return np.take_along_axis(layers, areas[layers].argmin(axis=0)[None], axis=0)[0]


def border_distances(instance_map: NDArray[np.int32]) -> NDArray[np.float32]:
    """(h, w): pixels from each pixel's middle to the border of its object, at least 0.5; the frame is no border."""
    inner = np.ones(instance_map.shape, np.uint8)
    down, right = instance_map[1:] != instance_map[:-1], instance_map[:, 1:] != instance_map[:, :-1]
    inner[1:][down] = 0
    inner[:-1][down] = 0
    inner[:, 1:][right] = 0
    inner[:, :-1][right] = 0
    if inner.all():  # one object all over, or none at all
        return np.full(instance_map.shape, float(max(instance_map.shape)), np.float32)
    return cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + np.float32(0.5)


def object_heights(instance_map: NDArray[np.int32]) -> NDArray[np.float32]:
    """(h, w) float32: the hill of each object, 1 at its top, 0 outside.

    Args:
        instance_map: (h, w), 0 is background.
    """
    height = np.zeros(instance_map.shape, np.float32)
    rows, cols = np.nonzero(instance_map)
    if not len(rows):
        return height
    owners = instance_map[rows, cols]
    distance = border_distances(instance_map)[rows, cols].astype(np.float64)
    # The middle is drawn to where the object is thick.
    weight = np.maximum(np.bincount(owners, distance), 1e-9)
    middle_row, middle_col = (np.bincount(owners, distance * places) / weight for places in (rows, cols))
    away = np.hypot(rows - middle_row[owners], cols - middle_col[owners])
    hills = distance / (distance + away)
    tops = np.zeros(len(weight))
    np.maximum.at(tops, owners, hills)
    height[rows, cols] = hills / tops[owners]
    return height


def object_contacts(instance_map: NDArray[np.int32], *, reach: int = 1) -> NDArray[np.bool_]:
    """(h, w) bool: pixels, of objects or of gaps, with two objects within `reach` rows and columns."""
    top = np.float32(instance_map.max(initial=0) + 1)
    numbers = instance_map.astype(np.float32)  # exact up to 2^24
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    most = cv2.dilate(numbers, window)
    least = top - cv2.dilate(np.where(numbers > 0, top - numbers, 0), window)
    return np.asarray((most > 0) & (least < most))
