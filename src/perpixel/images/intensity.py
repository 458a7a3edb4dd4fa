"""Voxel values -> what a net takes, by modality; the numbers are given, so that training and prediction use the same.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021): CT has a scale of its own (Hounsfield units), which all
cases share; MR and everything else has none, so each case is brought to mean 0 and standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perpixel.errors import InputError

LEAST_STD = 1e-8
# Ways to bring the values of a volume's channel to the net.
CT, EACH_CASE, EACH_CASE_NONZERO = "ct", "each_case", "each_case_nonzero"

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
    inside = (image != 0).any(axis=0) if nonzero else None
    return np.stack([_each_case(channel, inside) for channel in image])


@dataclass(frozen=True)
class VolumeNormalisation:
    """The rule of each channel of a volume, with the numbers that CT takes; each (C,).

    Attributes:
        ways: "ct" for `normalise_ct` by the numbers below, "each_case" for `normalise_mr`, "each_case_nonzero" for the
            same over the voxels that are not 0 in all channels.
        low, high, mean, std: of the foreground of the train cases; 0 and 1 for channels that do not take them.
    """

    ways: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        unknown = [way for way in self.ways if way not in (CT, EACH_CASE, EACH_CASE_NONZERO)]
        if unknown:
            raise InputError(f"normalisation '{unknown[0]}': choose {CT}, {EACH_CASE} or {EACH_CASE_NONZERO}")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(C, D, H, W) of the units of the files -> float32 of the same shape."""
        result = np.empty(image.shape, np.float32)
        inside = (image != 0).any(axis=0) if EACH_CASE_NONZERO in self.ways else None
        for channel, way in enumerate(self.ways):
            part = image[channel : channel + 1]
            if way == CT:
                numbers = {name: getattr(self, name)[channel] for name in ("low", "high", "mean", "std")}
                result[channel] = normalise_ct(part, **numbers)[0]
            else:
                result[channel] = _each_case(part[0], inside if way == EACH_CASE_NONZERO else None)
        return result

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> VolumeNormalisation:
        numbers = {name: tuple(float(number) for number in value[name]) for name in ("low", "high", "mean", "std")}
        return cls(tuple(str(way) for way in value["ways"]), **numbers)


def _each_case(channel: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """One channel to mean 0 and standard deviation 1, over the voxels `inside`; the others become 0."""
    result = channel.astype(np.float32)
    voxels = result if inside is None else result[inside]
    if voxels.size:
        mean, std = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
        result -= np.float32(mean)
        result /= np.float32(max(std, LEAST_STD))
    if inside is not None:
        result[~inside] = 0
    return result


def _by_channel(numbers: Numbers, axes: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(numbers, np.float32))
    return values.reshape(-1, *(1,) * (axes - 1))
