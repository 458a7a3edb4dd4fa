"""What a model is given: an image file or array, checked, with the channels that the model was trained on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.images import Normalisation, read_image


def image_array(image: np.ndarray | str | os.PathLike[str], channels: int) -> np.ndarray:
    """(H, W, C) with so many channels, from a file or an array.

    Raises:
        InputError: unreadable file, wrong number of channels, not an image array, NaN or infinite values.
    """
    where = "image" if isinstance(image, np.ndarray) else str(image)
    array = image if isinstance(image, np.ndarray) else read_image(Path(image))
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "uif":
        raise InputError(
            f"{where}: shape {array.shape}, dtype {array.dtype}: give numbers of shape (height, width, channels)"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(f"{where}: {bad} of {array.size} values are NaN or infinite: replace them by numbers")
    return match_channels(array, channels, where)


def match_channels(array: np.ndarray, channels: int, where: str) -> np.ndarray:
    """Grey to RGB and back, and without alpha: saving tools change these without a word, and nothing is lost."""
    have = array.shape[2]
    if have == channels:
        return array
    if channels == 3 and have == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 3 and have == 4:
        return array[..., :3]
    if channels == 1 and have == 3 and (array == array[..., :1]).all():
        return array[..., :1]
    raise InputError(
        f"{where}: {have} channels, but the model was trained on {channels}: give images like the training images"
    )


def scale_and_offset(normalisation: Normalisation, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) float32 each: what a window of `image` is multiplied by, and what is then added, to normalise it.

    Limits that are each image's own are those of the whole image, so that its tiles fit together.
    """
    low, high = (np.asarray(limit, np.float32) for limit in normalisation.limits(image))
    mean, std = np.asarray(normalisation.mean, np.float32), np.asarray(normalisation.std, np.float32)
    factor = 1 / (np.maximum(high - low, np.float32(1e-12)) * std)
    return factor, -low * factor - mean / std


def torch_ready(array: np.ndarray) -> np.ndarray:
    """uint8 and float32 as they are; other dtypes as float32, since torch knows few operations on uint16."""
    if array.dtype in (np.uint8, np.float32):
        return np.ascontiguousarray(array)
    return array.astype(np.float32)
