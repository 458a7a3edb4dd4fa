"""One case of a data set of volumes: image, label map and where they lie, in the canonical orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perpixel.data.sample import Sample, VolumeMask
from perpixel.errors import InputError
from perpixel.images import Geometry, GeometryDifference, Volume, VolumeHeader, VolumeSource, read_volume
from perpixel.labels import ClassTable, FileValue, LabelVolume

# Labels further off their image than this are refused: rounding and rewriting do not move a grid by half a voxel.
LARGEST_SHIFT_VOXELS = 0.5


@dataclass(frozen=True, eq=False)
class Case:
    """What `Dataset.load_case` gives.

    Attributes:
        image: (C, D, H, W).
        label_map: (D, H, W) class indices, or None where the sample has no mask.
        geometry: of (D, H, W): spacing and place.
        source: the image's file in its own geometry, for `write_volume`.
    """

    image: np.ndarray
    label_map: np.ndarray | None
    geometry: Geometry
    source: VolumeSource

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(depth, row, column)."""
        return self.geometry.spacing_mm


@dataclass(frozen=True, eq=False)
class EncodedLabels:
    """A label map in class indices, with the values that the class table lacks and how many voxels hold each."""

    label_map: np.ndarray
    unknown: dict[FileValue, int]
    label: LabelVolume


def load_volume(sample: Sample, channels: int) -> Volume:
    """The image of a sample.

    Raises:
        InputError: unreadable, or another number of channels than the data set's.
    """
    volume = read_volume(sample.images)
    found = len(volume.array)
    if found != channels:
        raise InputError(
            f"{sample.where}: {found} channels, but the data set has {channels}: save all volumes with the same "
            "channels"
        )
    return volume


def read_labels(sample: Sample, table: ClassTable, image: VolumeHeader) -> EncodedLabels:
    """The label map of a sample, encoded wherever it lies.

    Raises:
        InputError: no mask, or an unreadable one.
    """
    if not isinstance(sample.mask, VolumeMask):
        raise InputError(f"{sample.where}: has no label map: add one or leave the volume to prediction")
    label = sample.mask.read_volume(image)
    label_map, unknown = table.encode(sample.mask.flatten(label).values)
    ordered = dict(sorted(unknown.items(), key=lambda item: -item[1]))
    return EncodedLabels(label_map.reshape(label.values.shape), ordered, label)


def lies_apart(difference: GeometryDifference) -> bool:
    """Whether a label is too far off its image to be learnt from."""
    return difference.shift_voxels > LARGEST_SHIFT_VOXELS


def describe_difference(sample: Sample, label: LabelVolume) -> str:
    """How a label does not lie on its image, and the likeliest cause."""
    stored = label.header.geometry
    cause = ""
    if stored.affine.shape == (4, 4) and bool((stored.affine == np.eye(4)).all()):
        cause = "; its affine is the identity, as a file has it that was saved without one"
    name = sample.images[0].name
    return f"{sample.mask_where}: the label does not lie on its image {name} ({label.difference.text}{cause})"


def difference_remedy(label: LabelVolume) -> str:
    """What to do about a label that lies elsewhere."""
    if label.difference.shape:
        return "resample the label onto its image"
    return (
        "copy the image's affine into the label's file where the voxels match, else resample the label onto its image"
    )
