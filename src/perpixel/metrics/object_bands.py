"""The bands along the inside of the outlines of single objects (boundary IoU of Cheng et al., CVPR 2021)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from perpixel.errors import InputError
from perpixel.labels import Runs, spans_of_mask
from perpixel.labels.overlap import shared_pixels
from perpixel.metrics.boundary import BAND_SHARE
from perpixel.metrics.object_overlaps import Ints


def band_width(size: tuple[int, int], width: int | None = None) -> int:
    """Width in pixels: 2 % of the image's diagonal, rounded, at least 1, unless another one is given."""
    if width is not None and width < 1:
        raise InputError(f"width is {width}: give 1 pixel or more")
    return max(1, round(BAND_SHARE * math.hypot(*size))) if width is None else int(width)


def object_bands(masks: Runs, width: int | None = None) -> Runs:
    """Each mask less its erosion by a square of 2 w + 1; the frame of the image erodes as well, as with its authors."""
    depth = band_width(masks.size, width)
    bands = []
    for index in range(len(masks)):
        mask, corner = masks.crop(index)
        if min(mask.shape) <= 2 * depth:  # nothing is left inside
            bands.append(masks.of(index))
            continue
        padded = np.pad(mask, 1).astype(np.uint8)
        # A square is a row times a column; w steps of 3 x 3 are one of 2 w + 1.
        inner = cv2.erode(padded, np.ones((2 * depth + 1, 1), np.uint8), borderValue=0)
        inner = cv2.erode(inner, np.ones((1, 2 * depth + 1), np.uint8), borderValue=0)
        bands.append(spans_of_mask(mask & (inner[1:-1, 1:-1] == 0), corner, masks.size))
    return Runs.join(masks.size, bands)


def band_overlaps(
    pred: Runs, target: Runs, rows: Ints, cols: Ints, width: int | None = None
) -> tuple[Ints, Ints, Ints]:
    """(P,) pixels that the bands of each pair share, and the areas of the bands of either side."""
    ours, theirs = object_bands(pred, width), object_bands(target, width)
    return shared_pixels(ours, theirs, rows, cols), ours.areas, theirs.areas
