"""Do label maps sit where the images are? Tools that round the corners of pixels differently move them by a fraction.

Half a pixel is nothing to a large object and much to a thin one. A net learns a constant offset by itself, unless
mirrored and turned training images tell it that the offset points in every direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Sides of the part in the middle of an image that is looked at.
MIDDLE = 768
# Shifts that are tried, in pixels each way, and standard errors from which an offset is believed.
REACH = 3
CERTAIN = 4.0


def middle_of(values: np.ndarray) -> np.ndarray:
    """A copy of the middle of (H, W, ...), at most MIDDLE on each side."""
    top, left = (max(0, (side - MIDDLE) // 2) for side in values.shape[:2])
    return values[top : top + MIDDLE, left : left + MIDDLE].copy()


def label_offset(images: Sequence[np.ndarray], label_maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """How far label maps lie (below, right of) the edges of their images, in pixels; 0 where that is not certain.

    Edges of the image (absolute central differences) and of the label map are compared at whole shifts; the
    peak of their correlation is found between them by a parabola, and the median over the images is taken.

    Args:
        images: (H, W) or (H, W, C) each, any numbers.
        label_maps: (H, W) each.
    """
    return _offset_along(0, images, label_maps), _offset_along(1, images, label_maps)


def _offset_along(axis: int, images: Sequence[np.ndarray], label_maps: Sequence[np.ndarray]) -> float:
    found = [_peak(_edges(image, axis), _edges(label_map, axis)) for image, label_map in zip(images, label_maps)]
    known = np.array([place for place in found if place is not None])
    if len(known) < 4:
        return 0.0
    middle = float(np.median(known))
    # The spread that holds two thirds, since a few images have nonsensical peaks.
    error = float(np.subtract(*np.percentile(known, [84, 16]))) / 2 / np.sqrt(len(known))
    return middle if abs(middle) > CERTAIN * error else 0.0


def _edges(values: np.ndarray, axis: int) -> np.ndarray:
    """(H, W) edges across `axis`, centred on the pixel; of labels where they change, of images how much."""
    if values.ndim == 3:
        values = values.mean(axis=2, dtype=np.float32)
    values = np.moveaxis(values.astype(np.float32), axis, 0)
    return np.abs(values[2:] - values[:-2])


def _peak(image_edges: np.ndarray, label_edges: np.ndarray) -> float | None:
    """Shift of the labels against the image, along the first axis; None where there is no clear peak."""
    label_edges = (label_edges > 0).astype(np.float32)
    rows = len(image_edges)
    if rows <= 4 * REACH:
        return None
    inner = label_edges[REACH : rows - REACH]
    inner, spread = inner - inner.mean(), float(inner.std())
    match = []
    for shift in range(-REACH, REACH + 1):
        moved = image_edges[REACH - shift : rows - REACH - shift]
        product = float(moved.std()) * spread
        if not (np.isfinite(product) and product > 0):
            return None
        match.append(float(np.mean(moved * inner)) / product)  # the correlation coefficient
    top = int(np.argmax(match))
    if not 0 < top < 2 * REACH:
        return None
    before, peak, after = match[top - 1 : top + 2]
    return top - REACH + 0.5 * (before - after) / (before - 2 * peak + after)
