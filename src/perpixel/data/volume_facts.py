"""The part of a fingerprint that only volumes have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CaseValues:
    """One case: shape, voxel size, and the values of each channel."""

    name: str
    split: str
    shape: list[int]
    spacing_mm: list[float]
    value_min: list[float]
    value_max: list[float]
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class ForegroundValues:
    """One channel's values inside the classes of the train cases; `low` and `high` are 0.5 and 99.5 percentiles."""

    mean: float
    std: float
    median: float
    low: float
    high: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class VolumeFingerprint:
    """Facts of the train split where there is one; (depth, row, column) throughout.

    Attributes:
        spacing_mm: "min", "median" and "max", each axis on its own.
        target_spacing_mm: voxel size to resample to.
        resampled_sizes: "min", "median" and "max" of the sizes at that voxel size.
        crop_share: median share of a volume that the box of its non-zero voxels takes.
        foreground: one for each channel; empty where no label map could be read.
        modalities: "ct", "mr" or "other" for each channel.
        cases: of all splits.
    """

    spacing_mm: dict[str, list[float]]
    target_spacing_mm: list[float]
    resampled_sizes: dict[str, list[int]]
    crop_share: float
    foreground: list[ForegroundValues]
    modalities: list[str]
    cases: list[CaseValues]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> VolumeFingerprint:
        """Read what `dataclasses.asdict` made."""
        nested = {
            "foreground": [ForegroundValues(**each) for each in content["foreground"]],
            "cases": [CaseValues(**each) for each in content["cases"]],
        }
        return cls(**{**content, **nested})
