"""Voxel values -> what a net takes, by modality; the numbers are given, so that training and prediction use the same.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021): CT has a scale of its own (Hounsfield units), which all
cases share; MR and everything else has none, so each case is brought to mean 0 and standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_STD = 1e-8

Numbers = float | Sequence[float]


def normalise_ct(image: np.ndarray, *, low: Numbers, high: Numbers, mean: Numbers, std: Numbers) -> np.ndarray:
    """Clip to `low`..`high`, take `mean` away, divide by `std`.

    Args:
        image: (C, D, H, W) in the units of the files.
        low, high: 0.5 and 99.5 percentiles of the foreground of the train cases; one number, or one for each channel.
        mean, std: of the same voxels.
    Returns:
        (C, D, H, W) float32.
    """
    bottom, top, middle, width = (_by_channel(numbers, image.ndim) for numbers in (low, high, mean, std))
    result = np.clip(image.astype(np.float32), bottom, top)
    result -= middle
    result /= np.maximum(width, LEAST_STD)
    return result


def normalise_mr(image: np.ndarray, *, nonzero: bool = False) -> np.ndarray:
    """Each channel of one case to mean 0 and standard deviation 1.

    Args:
        image: (C, D, H, W) in the units of the files.
        nonzero: only voxels that are not 0 in all channels count, and the others become 0: for images whose
            surroundings were cut away.
    Returns:
        (C, D, H, W) float32; a channel of one value becomes 0.
    """
    result = image.astype(np.float32)
    inside = (image != 0).any(axis=0) if nonzero else None
    for channel in result:
        voxels = channel[inside] if inside is not None else channel
        if voxels.size == 0:
            continue
        channel -= np.float32(voxels.mean(dtype=np.float64))
        voxels = channel[inside] if inside is not None else channel
        channel /= np.float32(max(float(voxels.std(dtype=np.float64)), LEAST_STD))
        if inside is not None:
            channel[~inside] = 0
    return result


def _by_channel(numbers: Numbers, axes: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(numbers, np.float32))
    return values.reshape(-1, *(1,) * (axes - 1))
