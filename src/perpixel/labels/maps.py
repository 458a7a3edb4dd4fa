"""Label maps: resize, relabel, outlines, connected parts."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage


def resize_label_map(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> `size` by nearest neighbour, pixel centres aligned.

    At an even factor no pixel is nearest to the new centre; the one below and right of it is taken, half a pixel off.
    """
    if label_map.shape == tuple(size):
        return label_map
    if label_map.dtype not in (np.uint8, np.uint16):
        rows, cols = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(size, label_map.shape))
        return label_map[rows[:, None], cols]
    return cv2.resize(label_map, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def boundaries(label_map: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour (4-connected) has another label, and those neighbours."""
    edge = np.zeros(label_map.shape, bool)
    down = label_map[1:] != label_map[:-1]
    right = label_map[:, 1:] != label_map[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def relabel_sequential(instance_map: np.ndarray) -> np.ndarray:
    """The same objects numbered 1..n without gaps; 0 stays background."""
    values, inverse = np.unique(instance_map, return_inverse=True)
    numbers = np.arange(len(values))
    if len(values) and values[0] != 0:
        numbers += 1
    return numbers[inverse].reshape(instance_map.shape).astype(np.int32)


def connected_components(mask: np.ndarray, *, diagonal: bool = True) -> tuple[np.ndarray, int]:
    """(..., ) bool -> (instance map int32, number of objects); touching at corners counts with `diagonal`."""
    rank = mask.ndim
    structure = ndimage.generate_binary_structure(rank, rank if diagonal else 1)
    numbered, count = ndimage.label(mask, structure)
    return numbered.astype(np.int32), int(count)
