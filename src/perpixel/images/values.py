"""Value ranges: raw values -> what a net takes, and -> what a person looks at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5
# Values looked at for the percentiles of one image.
MAX_VALUES = 2**20


@dataclass(frozen=True)
class Normalisation:
    """Raw values between `low` and `high` to 0..1, then minus `mean`, divided by `std`; each (C,).

    Attributes:
        per_image: `low` and `high` are each image's own 0.5 and 99.5 percentiles, for sets without a common scale.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    per_image: bool = False

    def limits(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each (C,) float64, that hold for `image` (H, W, C)."""
        if not self.per_image:
            return np.asarray(self.low, float), np.asarray(self.high, float)
        step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / MAX_VALUES)))
        low, high = np.percentile(image[::step, ::step], (LOW_PERCENT, HIGH_PERCENT), axis=(0, 1))
        return np.asarray(low, float), np.asarray(high, float)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) raw values -> (H, W, C) float32."""
        low, high = self.limits(image)
        unit = (image.astype(np.float32) - low.astype(np.float32)) / np.maximum(high - low, 1e-12).astype(np.float32)
        return ((unit - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Normalisation:
        parts = {name: tuple(float(number) for number in value[name]) for name in ("low", "high", "mean", "std")}
        return cls(**parts, per_image=bool(value["per_image"]))


def to_display(image: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """(H, W, C) of any dtype -> (H, W, 3) uint8 to look at.

    8-bit values stay; others are stretched from `low` to `high`, by default the image's 1 and 99 percentiles.
    One channel becomes grey, two red and green, of more than three the first three are shown.
    """
    shown = image[..., :3]
    if shown.dtype != np.uint8 or low is not None or high is not None:
        step = max(1, int(np.sqrt(shown.shape[0] * shown.shape[1] / MAX_VALUES)))
        ends = np.percentile(shown[::step, ::step], (1, 99))
        bottom = float(ends[0]) if low is None else low
        top = float(ends[1]) if high is None else high
        unit = (shown.astype(np.float32) - bottom) / max(top - bottom, 1e-12)
        shown = (np.clip(unit, 0, 1) * 255).round().astype(np.uint8)
    if shown.shape[2] == 1:
        return np.repeat(shown, 3, axis=2)
    if shown.shape[2] == 2:
        return np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=2)
    return np.ascontiguousarray(shown)
