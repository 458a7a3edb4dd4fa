"""Distances to the edges of regions, and the weights that U-Net gives to the gaps between objects. 2-D and 3-D."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.labels.maps import connected_components

# U-Net's own (Ronneberger et al. 2015): the largest extra weight, and its width in pixels.
GAP_WEIGHT, GAP_WIDTH_PX = 10.0, 5.0
# Share of the largest extra weight below which it is taken for 0: each object is looked at only where it counts.
NEGLIGIBLE = 1e-6


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Float32 distance in pixels from each pixel to the nearest one of a bool `mask` that is not empty; 0 on it."""
    if mask.ndim == 2:
        return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return ndimage.distance_transform_edt(~mask).astype(np.float32)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Float32 distance in pixels to the edge of a bool `mask`, negative inside.

    The edge runs halfway between pixels, so that the nearest ones are 0.5 away. 0 everywhere where there is no edge.
    """
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    return np.where(mask, 0.5 - distance_to(~mask), distance_to(mask) - 0.5).astype(np.float32)


def objects_of(label_map: np.ndarray, *, ignore_index: int | None = None) -> np.ndarray:
    """An instance map from a label map: the connected parts (by faces) of each class other than 0, int32."""
    instance_map = np.zeros(label_map.shape, np.int32)
    count = 0
    for value in np.unique(label_map):
        if value == 0 or value == ignore_index:
            continue
        parts, found = connected_components(label_map == value, diagonal=False)
        np.copyto(instance_map, parts + count, where=parts > 0)
        count += found
    return instance_map


def gap_weights(instance_map: np.ndarray, *, weight: float = GAP_WEIGHT, width_px: float = GAP_WIDTH_PX) -> np.ndarray:
    """U-Net's extra weights of the pixels between objects: w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    Args:
        instance_map: int, 0 = background.
        weight: w0.
        width_px: sigma.
    Returns:
        Float32 map to be added to the weights of the classes. d1 and d2 are the distances to the nearest object and to
        the nearest other one; 0 on objects, and where there is no other one near.
    """
    check_gaps(weight, width_px)
    reach = math.ceil(width_px * math.sqrt(-2 * math.log(NEGLIGIBLE))) + 1
    first = np.full(instance_map.shape, np.inf, np.float32)
    second = first.copy()
    for number, box in enumerate(ndimage.find_objects(instance_map), 1):
        if box is None:
            continue
        near = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
        distance = distance_to(instance_map[near] == number)
        second[near] = np.minimum(second[near], np.maximum(first[near], distance))
        first[near] = np.minimum(first[near], distance)
    between = weight * np.exp(-np.square(first + second) / (2 * width_px**2))
    return np.where((instance_map == 0) & (between > NEGLIGIBLE * weight), between, 0).astype(np.float32)


def edge_weights(label_map: np.ndarray, *, weight: float = GAP_WEIGHT, width_px: float = GAP_WIDTH_PX) -> np.ndarray:
    """The same for maps without objects and gaps: w0 exp(-d^2 / (2 sigma^2)), d the distance to another label.

    d counts from the edge between pixels, so that the pixels on either side of it are 0.5 away.
    """
    check_gaps(weight, width_px)
    touching = np.zeros(label_map.shape, bool)
    for axis in range(label_map.ndim):
        along, edge = np.moveaxis(label_map, axis, 0), np.moveaxis(touching, axis, 0)
        differs = along[1:] != along[:-1]
        edge[1:] |= differs
        edge[:-1] |= differs
    if not touching.any():
        return np.zeros(label_map.shape, np.float32)
    return (weight * np.exp(-np.square(distance_to(touching) + 0.5) / (2 * width_px**2))).astype(np.float32)


def check_gaps(weight: float, width_px: float) -> None:
    """Refuse a negative weight or a width that is not positive."""
    if not weight >= 0:
        raise InputError(f"weight {weight} of the borders: give 0 or more")
    if not width_px > 0:
        raise InputError(f"width {width_px} of the borders: give a positive number of pixels")
