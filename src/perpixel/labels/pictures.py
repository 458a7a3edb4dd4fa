"""Label maps as pictures."""

from __future__ import annotations

import numpy as np

from perpixel.labels.classes import VOID_COLOUR, ClassTable
from perpixel.labels.maps import boundaries

CORRECT = (36, 62, 54)
WRONG = (236, 72, 66)


def colourise(label_map: np.ndarray, table: ClassTable) -> np.ndarray:
    """(H, W) class indices -> (H, W, 3) uint8 class colours; grey where ignored."""
    colours = np.full((int(np.iinfo(table.dtype).max) + 1, 3), VOID_COLOUR, np.uint8)
    colours[: table.num_classes] = table.colours
    return colours[label_map]


def overlay(
    image: np.ndarray, label_map: np.ndarray, table: ClassTable, *, alpha: float = 0.45, outline: bool = True
) -> np.ndarray:
    """Class colours laid over an image (H, W, 3) uint8, with outlines in the full colour.

    A class named background, and ignored pixels, leave the image as it is.
    """
    clear = label_map >= table.num_classes
    for index, name in enumerate(table.names):
        if name.lower() in ("background", "_background_", "bg"):
            clear = clear | (label_map == index)
    colours = colourise(label_map, table).astype(np.float32)
    mixed = image.astype(np.float32) * (1 - alpha) + colours * alpha
    result = np.where(clear[..., None], image, mixed.round().astype(np.uint8))
    if outline:
        edge = boundaries(label_map) & ~clear
        result[edge] = colours[edge].astype(np.uint8)
    return result


def error_map(pred: np.ndarray, target: np.ndarray, ignore_index: int | None = None) -> np.ndarray:
    """(H, W, 3) uint8: dark green where `pred` is right, red where wrong, grey where ignored."""
    result = np.where((pred == target)[..., None], np.array(CORRECT, np.uint8), np.array(WRONG, np.uint8))
    if ignore_index is not None:
        result[target == ignore_index] = VOID_COLOUR
    return result
