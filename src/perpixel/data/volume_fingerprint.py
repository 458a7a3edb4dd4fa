"""What volumes are like beyond their pixels: voxel sizes, sizes after resampling, foreground values, modality.

The numbers that nnU-Net plans with (Isensee et al., Nature Methods 2021), but each case counts alike whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.data.fingerprint import HIGH_PERCENT, LOW_PERCENT, ChannelValues, SampleFacts
from perpixel.data.volume_facts import CaseValues, ForegroundValues, VolumeFingerprint
from perpixel.images import resampled_shape

# Foreground values kept of each case, per channel.
VALUES_PER_CASE = 10_000
ANISOTROPY = 3.0
COARSE_PERCENT = 10
CT_WORDS = re.compile(r"(^|[^a-z])(cb)?ct([^a-z]|$)|computed tomography|hounsfield")
MR_WORDS = re.compile(r"(^|[^a-z])(mri?|t1|t2|pd|flair|adc|dwi|swi)([^a-z]|$)|t1w|t2w|t1c|t1gd|magnetic")
# Air is -1000 Hounsfield units, bone and contrast reach 3000: files of CT hold whole numbers from below the first.
CT_LOW, CT_HIGH = -500, 5000


@dataclass(frozen=True)
class VolumeFacts(SampleFacts):
    """The facts of one readable volume.

    Attributes:
        foreground: per channel up to VALUES_PER_CASE float32 values inside the classes; empty without a label map.
        crop_share: share of the volume that the box of its non-zero voxels takes.
        notes, label_notes: what was missing in the files, broken or assumed.
        is_label_float: the label map is stored as float.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    foreground: tuple[np.ndarray, ...] = ()
    crop_share: float = 1.0
    notes: tuple[str, ...] = ()
    label_notes: tuple[str, ...] = ()
    is_label_float: bool = False


def foreground_values(image: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, ...]:
    """Per channel up to VALUES_PER_CASE float32 values of (C, D, H, W) where `inside` (D, H, W).

    An even stride through the voxels is repeatable and as good as a random draw here.
    """
    places = np.flatnonzero(inside)
    places = places[:: max(1, -(-len(places) // VALUES_PER_CASE))]
    return tuple(channel.reshape(-1)[places].astype(np.float32) for channel in image)


def crop_share(image: np.ndarray) -> float:
    """Share of (C, D, H, W) that the box of the voxels other than 0 takes."""
    held = (image != 0).any(axis=0)
    share = 1.0
    for axis in range(3):
        found = np.flatnonzero(held.any(axis=tuple({0, 1, 2} - {axis})))
        share *= (found[-1] - found[0] + 1) / held.shape[axis] if len(found) else 0.0
    return float(share)


def target_spacing(spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> list[float]:
    """The voxel size to resample to: the median of each axis.

    Where one axis is more than three times as coarse as the others and has less than a third of their voxels, it takes
    its own 10th percentile, but no finer than the others: else most cases would lose slices.
    """
    spacing, size = np.median(spacings_mm, axis=0), np.median(shapes, axis=0)
    worst = int(np.argmax(spacing))
    others = [axis for axis in range(3) if axis != worst]
    if spacing[worst] > ANISOTROPY * spacing[others].max() and size[worst] * ANISOTROPY < size[others].min():
        fine = float(np.percentile(np.asarray(spacings_mm, float)[:, worst], COARSE_PERCENT))
        spacing[worst] = max(fine, float(spacing[others].max()))
    return [float(side) for side in spacing]


def guess_modality(name: str | None, cases: Sequence[ChannelValues]) -> str:
    """ "ct", "mr" or "other": by the channel's name, else CT by its numbers, else MR."""
    if name:
        text = name.lower()
        return "ct" if CT_WORDS.search(text) else "mr" if MR_WORDS.search(text) else "other"
    whole = all(values.counts is not None or _are_whole(values.drawn) for values in cases)
    lows, highs = [values.low for values in cases], [values.high for values in cases]
    is_ct = whole and bool(cases) and np.median(lows) <= CT_LOW and 0 < np.median(highs) <= CT_HIGH
    return "ct" if is_ct else "mr"


def _are_whole(values: np.ndarray | None) -> bool:
    return values is not None and bool((values == np.round(values)).all())


class VolumeTally:
    """Takes in volumes one after the other and makes the fingerprint at the end."""

    def __init__(self, value_split: str | None) -> None:
        """`value_split`: the split that is described; None = all of them."""
        self.value_split = value_split
        self.cases: list[CaseValues] = []
        self.facts: list[VolumeFacts] = []

    def add(self, name: str, split: str, facts: VolumeFacts) -> None:
        """Take in one case."""
        values = facts.values
        means = [each.total / each.size for each in values]
        stds = [max(0.0, each.squares / each.size - mean**2) ** 0.5 for each, mean in zip(values, means)]
        lows, highs = [each.low for each in values], [each.high for each in values]
        spacing = [float(side) for side in facts.spacing_mm]
        self.cases.append(CaseValues(name, split, list(facts.size), spacing, lows, highs, means, stds))
        if self.value_split in (None, split):
            self.facts.append(facts)

    def finish(self, channels: int, channel_names: Sequence[str]) -> VolumeFingerprint | None:
        """The fingerprint of all cases taken in, or None where none could be read."""
        facts = [each for each in self.facts if each.channels == channels]
        if not facts:
            return None
        spacings, shapes = [each.spacing_mm for each in facts], [each.size for each in facts]
        target = target_spacing(spacings, shapes)
        resampled = [resampled_shape(shape, spacing, target) for shape, spacing in zip(shapes, spacings)]
        return VolumeFingerprint(
            spacing_mm={key: [float(side) for side in sides] for key, sides in _extent(spacings).items()},
            target_spacing_mm=target,
            resampled_sizes={key: [int(side) for side in sides] for key, sides in _extent(resampled).items()},
            crop_share=float(np.median([each.crop_share for each in facts])),
            foreground=_foreground(facts, channels),
            modalities=[
                guess_modality(channel_names[index] if channel_names else None, [each.values[index] for each in facts])
                for index in range(channels)
            ],
            cases=self.cases,
        )


def _extent(rows: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    table = np.array(rows, float)
    return {"min": table.min(axis=0), "median": np.median(table, axis=0), "max": table.max(axis=0)}


def _foreground(facts: Sequence[VolumeFacts], channels: int) -> list[ForegroundValues]:
    """Each case counts alike: its values share a weight of 1."""
    held = [each.foreground for each in facts if each.foreground and len(each.foreground[0])]
    if not held:
        return []
    result = []
    for index in range(channels):
        values = np.concatenate([each[index] for each in held]).astype(np.float64)
        weights = np.concatenate([np.full(len(each[index]), 1 / len(each[index])) for each in held]) / len(held)
        mean = float(values @ weights)
        std = float(np.sqrt(((values - mean) ** 2) @ weights))
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order])
        at = np.searchsorted(reached, np.array((50, LOW_PERCENT, HIGH_PERCENT)) / 100 * reached[-1])
        median, low, high = (float(value) for value in values[order][np.minimum(at, len(values) - 1)])
        result.append(ForegroundValues(mean, std, median, low, high, float(values.min()), float(values.max())))
    return result
