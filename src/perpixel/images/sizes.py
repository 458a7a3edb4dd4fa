"""Resize, pad, and cut into tiles."""

from __future__ import annotations

import cv2
import numpy as np

from perpixel.errors import InputError

# cv2.resize takes any number of channels up to this.
MAX_CHANNELS = 4


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, C) -> (*size, C) of the same dtype: area averages when shrinking, linear when growing."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    parts = [
        cv2.resize(np.ascontiguousarray(image[..., i : i + MAX_CHANNELS]), (size[1], size[0]), interpolation=mode)
        for i in range(0, image.shape[2], MAX_CHANNELS)
    ]
    return np.concatenate([part.reshape(*size, -1) for part in parts], axis=2)


def pad_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mirror (H, W, ...) at its bottom and right up to `size`, however much larger that is. Never crops."""
    height, width = (max(side, want) for side, want in zip(image.shape[:2], size))
    return image[_mirrored(image.shape[0], height)][:, _mirrored(image.shape[1], width)]


def _mirrored(side: int, total: int) -> np.ndarray:
    period = max(1, 2 * (side - 1))
    places = np.arange(total) % period
    return np.minimum(np.minimum(places, period - places), side - 1)


def tile_grid(size: tuple[int, int], tile: tuple[int, int], overlap: int = 0) -> list[tuple[slice, slice]]:
    """Slices that cover an image of `size` (H, W), row by row.

    Every tile has the size asked for where the image is as large; the last of a row or column moves back inside.

    Args:
        overlap: least number of pixels that neighbours share.
    Raises:
        InputError: a tile without pixels, or an overlap as large as the tile.
    """
    if min(tile) < 1 or not 0 <= overlap < min(tile):
        raise InputError(f"tile {tile} with overlap {overlap}: sides must be at least 1 and larger than the overlap")
    rows, cols = (_starts(side, step, overlap) for side, step in zip(size, tile))
    return [
        (slice(row, min(row + tile[0], size[0])), slice(col, min(col + tile[1], size[1])))
        for row in rows
        for col in cols
    ]


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if side <= tile:
        return [0]
    count = -(-(side - tile) // (tile - overlap)) + 1
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]
