"""How well the outlines of classes are met: BF score and boundary IoU, all classes of an image at once.

Both start from whole numbers, so that images, batches and machines add up exactly. Volumes are measured like images,
by surfaces in place of contours.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from perpixel.compiled import compile_loop
from perpixel.errors import InputError
from perpixel.metrics.label_pairs import OUTSIDE, IntMap, diagonal, label_pair

# Share of the diagonal: Csurka et al. 2013 as SegNet's authors used it; Cheng et al. 2021.
CONTOUR_SHARE = 0.0075
BAND_SHARE = 0.02
# Up to this reach in pixels the steps around a contour pixel are tried one by one.
_MAX_STEPS = 48

Counts = NDArray[np.int64]


def contour_counts(
    pred: Any,
    target: Any,
    *,
    num_classes: int,
    ignore_index: int | None = None,
    tolerance: float | None = None,
) -> Counts:
    """Contour pixels of each class, and how many of them lie near the same class's contour in the other map.

    A contour pixel of class c has a neighbour (4-connected; 6 in volumes) of another class. The frame of the image and
    unlabelled pixels are no other class: a road that leaves the image has no contour there.

    Args:
        pred, target: (H, W) or (D, H, W) class ids.
        tolerance: distance in pixels, up to and with which a contour pixel is met; None is 0.75 % of the diagonal.
    Returns:
        (K, 4) int64: predicted, predicted and met, true, true and met. `match_f1` of it is the BF score.
    Raises:
        InputError: maps that do not fit together, ids out of range, a negative tolerance.
    Reference:
        Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013.
    """
    maps = label_pair(pred, target, num_classes, ignore_index)
    reach = CONTOUR_SHARE * diagonal(maps[0].shape) if tolerance is None else float(tolerance)
    if not 0 <= reach < math.inf:
        raise InputError(f"tolerance is {tolerance}: give a distance in pixels, 0 or more")
    by_tree = reach > _MAX_STEPS
    margin = 1 if by_tree else max(1, min(int(reach), max(maps[0].shape)))
    padded = [np.pad(each, margin, constant_values=OUTSIDE) for each in maps]
    strides = np.array([int(np.prod(padded[0].shape[axis + 1 :])) for axis in range(maps[0].ndim)], dtype=np.int64)
    edges = [contour_map(each, strides) for each in padded]
    offsets = np.zeros(0, np.int64) if by_tree else _steps_within(reach, maps[0].shape) @ strides
    match = _compiled_match() or _match_numpy
    found = np.zeros((num_classes, 4), dtype=np.int64)
    for side in (0, 1):
        ours, theirs = edges[side], edges[1 - side]
        if by_tree:
            counts = _match_tree(ours, theirs, padded[0].shape, reach, num_classes)
        else:
            counts = match(ours, theirs, offsets, num_classes)
        found[:, 2 * side : 2 * side + 2] = counts
    return found


def contour_map(padded: IntMap, strides: NDArray[np.int64], *, frame: bool = False) -> IntMap:
    """Flat map of the class at each contour pixel, OUTSIDE elsewhere.

    Args:
        padded: label map with a margin of OUTSIDE on every side.
        strides: flat steps from a pixel to its neighbours.
        frame: a neighbour that is OUTSIDE makes a contour as well.
    """
    flat = padded.ravel()
    edge = np.zeros(flat.shape, bool)
    for step in strides:
        differs = flat[step:] != flat[:-step]
        if not frame:
            differs &= (flat[step:] != OUTSIDE) & (flat[:-step] != OUTSIDE)
        edge[step:] |= differs
        edge[:-step] |= differs
    return np.where(edge, flat, np.int32(OUTSIDE))


def _steps_within(reach: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(M, ndim) steps no longer than `reach`, the nearest first; none leads beyond the image's own size."""
    sides = [min(int(reach), side) for side in shape]
    grid = np.array(list(product(*(range(-side, side + 1) for side in sides))), dtype=np.int64)
    squares = (grid**2).sum(axis=1)
    inside = squares <= reach**2
    return grid[inside][np.argsort(squares[inside], kind="stable")]


def _match(edges: IntMap, others: IntMap, offsets: NDArray[np.int64], num_classes: int) -> Counts:
    # Most contours are nearly met: the nearest steps come first, and the first hit ends the search.
    found = np.zeros((num_classes, 2), dtype=np.int64)
    for place in range(edges.size):
        label = edges[place]
        if label < 0:
            continue
        found[label, 0] += 1
        for offset in offsets:
            if others[place + offset] == label:
                found[label, 1] += 1
                break
    return found


@cache
def _compiled_match() -> Any:
    return compile_loop(_match)


def _match_numpy(edges: IntMap, others: IntMap, offsets: NDArray[np.int64], num_classes: int) -> Counts:
    places = np.flatnonzero(edges >= 0)
    labels = edges[places]
    total = np.bincount(labels, minlength=num_classes)
    met = np.zeros(num_classes, dtype=np.int64)
    for offset in offsets:
        hit = others[places + offset] == labels
        met += np.bincount(labels[hit], minlength=num_classes)
        places, labels = places[~hit], labels[~hit]
        if not len(places):
            break
    return np.stack([total, met], axis=1)


def _match_tree(edges: IntMap, others: IntMap, shape: tuple[int, ...], reach: float, num_classes: int) -> Counts:
    """The same counts for a wide reach, where looking at every step within it would take long."""
    from scipy.spatial import cKDTree  # takes a fifth of a second to import

    found = np.zeros((num_classes, 2), dtype=np.int64)
    for label in np.unique(edges[edges >= 0]):
        ours, theirs = (np.argwhere(each.reshape(shape) == label) for each in (edges, others))
        found[label, 0] = len(ours)
        if len(theirs):
            distances = cKDTree(theirs).query(ours, distance_upper_bound=reach + 1)[0]
            near = distances[np.isfinite(distances)]
            found[label, 1] = (np.rint(near**2) <= reach**2).sum()  # squares are whole numbers
    return found


def band_counts(
    pred: Any, target: Any, *, num_classes: int, ignore_index: int | None = None, width: int | None = None
) -> Counts:
    """Pixels in the inner bands along the outlines of each class: in both maps, predicted, true.

    A band is a mask less what is left of it after `width` erosions by a square (3x3; a cube in volumes). As with its
    authors, the frame of the image erodes as well; so do unlabelled pixels, in both maps.

    Args:
        pred, target: (H, W) or (D, H, W) class ids.
        width: in pixels; None is 2 % of the diagonal, rounded, at least 1.
    Returns:
        (K, 3) int64. `boundary_iou` of it, or of a sum over images, is the boundary IoU.
    Raises:
        InputError: maps that do not fit together, ids out of range, a width below 1.
    Reference:
        Cheng et al., "Boundary IoU: improving object-centric image segmentation evaluation", CVPR 2021.
    """
    maps = label_pair(pred, target, num_classes, ignore_index)
    depth = max(1, round(BAND_SHARE * diagonal(maps[0].shape))) if width is None else int(width)
    if depth < 1:
        raise InputError(f"width is {width}: give 1 pixel or more")
    pred_band, target_band = (_band(each, depth, num_classes) for each in maps)
    both = pred_band & target_band & (maps[0] == maps[1])
    columns = [maps[1][both], maps[0][pred_band], maps[1][target_band]]
    return np.stack([np.bincount(labels, minlength=num_classes) for labels in columns], axis=1).astype(np.int64)


def _band(labels: IntMap, depth: int, num_classes: int) -> NDArray[np.bool_]:
    """Pixels whose (2 depth + 1)-wide square holds anything but their own class: a mask's pixels that erosion takes."""
    shifted = np.pad(labels + 1, 1)  # 0 is outside
    size = 2 * depth + 1
    if shifted.ndim == 2 and num_classes < 65535:  # ten times as fast as the general form
        small: NDArray[Any] = shifted.astype(np.uint8 if num_classes < 255 else np.uint16)
        square = np.ones((size, size), np.uint8)
        is_mixed = np.asarray(cv2.erode(small, square)) != np.asarray(cv2.dilate(small, square))
    else:
        low = ndimage.minimum_filter(shifted, size=size, mode="nearest")
        is_mixed = low != ndimage.maximum_filter(shifted, size=size, mode="nearest")
    return is_mixed[(slice(1, -1),) * shifted.ndim] & (labels != OUTSIDE)


def boundary_iou(counts: ArrayLike) -> NDArray[np.float64]:
    """(..., 3) band counts -> (...): intersection over union of the bands; NaN where neither map has the class."""
    table = np.asarray(counts, dtype=np.float64)
    union = table[..., 1] + table[..., 2] - table[..., 0]
    return np.divide(table[..., 0], union, out=np.full(union.shape, np.nan), where=union > 0)
