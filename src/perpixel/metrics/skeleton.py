"""Thin structures: skeletons of masks, and how far each skeleton lies within the other mask (clDice).

A skeleton is what is left when pixels are taken off the rim of a mask for as long as no part of it breaks, no hole
opens or closes, and no end of a line is eaten. Of a thin structure it keeps the course and forgets the width.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.compiled import compile_loop
from perpixel.errors import InputError
from perpixel.metrics.label_pairs import label_pair

# Steps to the neighbours of a pixel; those through a face come first.
_STEPS = {
    ndim: np.array(
        sorted((s for s in product((-1, 0, 1), repeat=ndim) if any(s)), key=lambda s: sum(map(abs, s))), dtype=np.int64
    )
    for ndim in (2, 3)
}

SKELETON_DEFINITIONS = {
    "cldice": "2 P S / (P + S), over the skeleton pixels of all images",
    "topology_precision": "P: share of the predicted skeleton that lies inside the true mask",
    "topology_sensitivity": "S: share of the true skeleton that lies inside the predicted mask",
    "cldice_per_image": "mean over images of the clDice of each, over those where truth or prediction has the class",
}


def skeletonise(mask: Any) -> NDArray[np.bool_]:
    """The skeleton of a mask: same connected parts, same holes, one pixel thin where that can be.

    Args:
        mask: (H, W) or (D, H, W) bool. Objects are 8-connected (26 in volumes), background is 4-connected (6).
    Returns:
        Bool, of the same shape. Every part of the mask keeps at least one pixel.
    Raises:
        InputError: not a mask of 2 or 3 axes.
    Reference:
        Simple points: Bertrand, Malandain, "A new characterization of three-dimensional simple points", Pattern
        Recognition Letters 1994. Thinning in turns from each side: Lee, Kashyap, Chu, "Building skeleton models via 3-D
        medial surface/axis thinning algorithms", CVGIP 1994.
    """
    array = np.asarray(mask)
    if array.ndim not in (2, 3) or array.dtype != np.bool_:
        raise InputError(f"mask of shape {array.shape}, dtype {array.dtype}: give a bool array (H, W) or (D, H, W)")
    padded = np.pad(array, 1).astype(np.uint8)
    strides = np.array([int(np.prod(padded.shape[axis + 1 :])) for axis in range(array.ndim)], dtype=np.int64)
    steps = _STEPS[array.ndim]
    near, touch = _neighbourhood(array.ndim)
    places = np.flatnonzero(padded.ravel())
    thin = _compiled_thin() or _thin
    flat = padded.ravel()
    thin(flat, places, steps @ strides, near, touch, array.ndim)
    return flat.reshape(padded.shape)[(slice(1, -1),) * array.ndim].astype(bool)


@cache
def _neighbourhood(ndim: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which neighbours touch each other: by corners (objects) and by faces (background), each (M, M) bool.

    Background counts within the 18 neighbours only, in volumes (the corners of the cube join nothing); in images within
    all 8.
    """
    steps = _STEPS[ndim]
    apart = np.abs(steps[:, None] - steps[None])
    by_corner = apart.max(-1) == 1
    by_face = apart.sum(-1) == 1
    reach = np.abs(steps).sum(-1) <= 2
    return by_corner, by_face & reach[:, None] & reach[None]


def _thin(flat: Any, places: Any, offsets: Any, near: Any, touch: Any, ndim: int) -> None:
    # Sides in turn: a pixel whose neighbour on that side is background goes if it is simple and no end of a line. The
    # candidates of a side are tested again one by one as they go, which keeps the topology whatever the order.
    count = len(offsets)
    left = places.copy()
    remaining = len(left)
    values = np.zeros(count, np.uint8)
    seen = np.zeros(count, np.uint8)
    stack = np.zeros(count, np.int64)
    candidates = np.zeros(len(left), np.int64)
    changed = True
    while changed:
        changed = False
        for side in range(2 * ndim):
            found = 0
            for i in range(remaining):
                if flat[left[i] + offsets[side]] == 0:
                    candidates[found] = left[i]
                    found += 1
            for i in range(found):
                place = candidates[i]
                total = 0
                for k in range(count):
                    values[k] = flat[place + offsets[k]]
                    total += values[k]
                if total <= 1:  # an end of a line, or a last pixel
                    continue
                # simple: its object neighbours hang together (kind 0), and so does the background that shares a face
                # with it (kind 1), without going through the pixel itself
                is_simple = True
                for kind in range(2):
                    joins = near if kind == 0 else touch
                    seen[:] = 0
                    parts = 0
                    for k in range(count if kind == 0 else 2 * ndim):
                        if values[k] == kind or seen[k] == 1:
                            continue
                        parts += 1
                        if parts > 1:
                            break
                        top = 1
                        stack[0] = k
                        seen[k] = 1
                        while top > 0:
                            top -= 1
                            here = stack[top]
                            for m in range(count):
                                if values[m] != kind and seen[m] == 0 and joins[here, m]:
                                    seen[m] = 1
                                    stack[top] = m
                                    top += 1
                    is_simple = is_simple and parts == 1
                if not is_simple:
                    continue
                flat[place] = 0
                changed = True
            kept = 0
            for i in range(remaining):
                if flat[left[i]] == 1:
                    left[kept] = left[i]
                    kept += 1
            remaining = kept


@cache
def _compiled_thin() -> Any:
    return compile_loop(_thin)


def skeleton_counts(
    pred: Any, target: Any, *, label: int, num_classes: int = 2, ignore_index: int | None = None
) -> NDArray[np.int64]:
    """Skeleton pixels of one class, and how many of them lie within the other map's mask.

    Args:
        pred, target: (H, W) or (D, H, W) class ids.
        label: the class that is thin.
        ignore_index: target value of pixels that are in neither mask.
    Returns:
        (4,) int64: predicted, predicted ones inside the true mask, true, true ones inside the predicted mask. They add
        up over images. `match_f1` of them is clDice, `match_precision` its topology precision, `match_recall` its
        topology sensitivity.
    Raises:
        InputError: maps that do not fit together, ids out of range, a label that is no class.
    Reference:
        Shit et al., "clDice: a novel topology-preserving loss function for tubular structure segmentation", CVPR 2021.
    """
    maps = label_pair(pred, target, num_classes, ignore_index)
    if not 0 <= label < num_classes:
        raise InputError(f"label is {label}: give one of the classes 0..{num_classes - 1}")
    masks = [each == label for each in maps]
    thin = [skeletonise(mask) for mask in masks]
    counts = [thin[0].sum(), (thin[0] & masks[1]).sum(), thin[1].sum(), (thin[1] & masks[0]).sum()]
    return np.array(counts, dtype=np.int64)
