"""What a fully connected CRF is set to, and which images and probabilities it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from perpixel.errors import InputError, did_you_mean

NORMALISATIONS = ("symmetric", "before", "after", "none")
# Probabilities below this count as this: a net that is sure of a wrong class can still be overruled.
LEAST = 1e-5
# What probabilities of one pixel may differ from 1 in sum: those stored in half precision do.
SUM_TOLERANCE = 0.01

PRESETS: dict[str, dict[str, Any]] = {
    # The house's default: the demonstration of Kraehenbuehl's library.
    "demo": {},
    # DeepLab v1 (VGG): the release's script.
    "deeplab_v1": {"bilateral_width": 49.0, "bilateral_range": 5.0, "bilateral_weight": 4.0},
    # DeepLab v2 (ResNet-101).
    "deeplab_v2": {
        "bilateral_width": 67.0,
        "bilateral_range": 3.0,
        "bilateral_weight": 4.0,
        "spatial_width": 1.0,
    },
}


@dataclass(frozen=True)
class CrfSettings:
    """Kernels, their weights, and how often messages are passed.

    Attributes:
        iterations: of the mean field; 0 leaves the probabilities as they are, but for clipping.
        spatial_width, spatial_weight: the smoothness kernel; widths (standard deviations) in pixels, one number or one
            for each axis, such as 3 mm over the spacing of a volume.
        bilateral_width, bilateral_range, bilateral_weight: the appearance kernel; its range in the image's units, one
            number or one for each channel.
        normalisation: "symmetric" divides by the square root of the filtered ones before and after the kernel, "before"
            and "after" by the filtered ones on one side, "none" not at all. Weights mean something else under each.
        compatibility: (K, K) cost of a label (row) beside another; None is Potts: 0 beside itself, else 1.
    """

    iterations: int = 10
    spatial_width: float | tuple[float, ...] = 3.0
    spatial_weight: float = 3.0
    bilateral_width: float | tuple[float, ...] = 80.0
    bilateral_range: float | tuple[float, ...] = 13.0
    bilateral_weight: float = 10.0
    normalisation: str = "symmetric"
    compatibility: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("spatial_width", "bilateral_width", "bilateral_range"):
            object.__setattr__(self, name, _widths(getattr(self, name), name))
        for name in ("spatial_weight", "bilateral_weight"):
            weight = getattr(self, name)
            if not (_is_number(weight) and math.isfinite(weight) and weight >= 0):
                raise InputError(f"{name} is {weight!r}: give 0 (no such kernel) or more")
            object.__setattr__(self, name, float(weight))
        count = self.iterations
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
            raise InputError(f"iterations is {count!r}: give a whole number, 0 or more")
        object.__setattr__(self, "iterations", int(count))
        if self.normalisation not in NORMALISATIONS:
            raise InputError(
                f"unknown normalisation {self.normalisation!r}{did_you_mean(str(self.normalisation), NORMALISATIONS)}"
            )
        if self.compatibility is not None:
            object.__setattr__(self, "compatibility", _matrix(self.compatibility))

    def to_json(self) -> dict[str, Any]:
        """The arguments of `dense_crf`, as plain values."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any, where: str) -> CrfSettings:
        """Read what `to_json` wrote.

        Raises:
            InputError: not a table, an unknown name, or a value that cannot be.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict):
            raise InputError(
                f"{where}: {value!r} where a table of CRF settings is needed: known are {', '.join(names)}"
            )
        for name in value:
            if name not in names:
                raise InputError(f"{where}: unknown CRF setting '{name}'{did_you_mean(str(name), names)}")
        try:
            return cls(**value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def per_axis(self, name: str, axes: int) -> np.ndarray:
        """(axes,) float64 of a width.

        Raises:
            InputError: as many numbers as there are neither axes nor one.
        """
        value = getattr(self, name)
        numbers = value if isinstance(value, tuple) else (value,) * axes
        if len(numbers) != axes:
            kind = "channels" if name == "bilateral_range" else "axes"
            raise InputError(f"{name} has {len(numbers)} numbers for {axes} {kind}: give one, or one for each")
        return np.array(numbers, np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _widths(value: Any, name: str) -> float | tuple[float, ...]:
    """One number as a float, several as a tuple."""
    given = np.atleast_1d(value) if isinstance(value, np.ndarray) else value
    several = list(given) if isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str) else [given]
    good = [_is_number(width) and math.isfinite(width) and width > 0 for width in several]
    if not good or not all(good):
        raise InputError(f"{name} is {value!r}: give more than 0 (a weight of 0 switches a kernel off)")
    numbers = tuple(float(width) for width in several)
    return numbers[0] if len(numbers) == 1 else numbers


def _matrix(value: Any) -> tuple[tuple[float, ...], ...]:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not np.isfinite(array).all():
        raise InputError(f"compatibility of shape {array.shape}: give finite numbers of shape (classes, classes)")
    return tuple(tuple(float(cost) for cost in row) for row in array)


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def check_arrays(image: np.ndarray, probs: np.ndarray) -> None:
    """Refuse what a CRF cannot be made of.

    Raises:
        InputError: not (H, W, C) or (D, H, W, C) with (K, H, W) or (K, D, H, W), another size, NaN, infinite values.
    """
    if probs.ndim not in (3, 4) or probs.size == 0 or probs.dtype.kind != "f":
        raise InputError(
            f"probs: shape {probs.shape}, dtype {probs.dtype}: give floats of shape (classes, height, width)"
        )
    if image.ndim != probs.ndim or image.shape[-1] == 0 or image.dtype.kind not in "uif":
        raise InputError(
            f"image: shape {image.shape}, dtype {image.dtype}: give numbers of shape (height, width, channels), "
            "for volumes (depth, height, width, channels)"
        )
    if image.shape[:-1] != probs.shape[1:]:
        raise InputError(
            f"image of {image.shape[:-1]} and probs of {probs.shape[1:]} pixels: resize the probabilities to the image"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise InputError(f"image: {bad} of {image.size} values are NaN or infinite: replace them by numbers")


def refuse_probs(probs: np.ndarray, pixel: int) -> None:
    """Raise the InputError about the probabilities of one pixel that are none."""
    where = tuple(int(i) for i in np.unravel_index(pixel, probs.shape[1:]))
    values = probs.reshape(len(probs), -1)[:, pixel].astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"probs: NaN or infinite at pixel {where}: the net's output is broken there")
    if values.min() < 0:
        raise InputError(f"probs: {values.min():.3g} at pixel {where}: give probabilities (logits: take the softmax)")
    raise InputError(
        f"probs: add up to {values.sum():.4g} over the classes at pixel {where}: give probabilities that add up to 1 "
        "(logits: take the softmax)"
    )
