"""Label maps of volumes: files -> whole numbers (D, H, W) that lie on their image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.images import Geometry, GeometryDifference, VolumeHeader, lies_on, read_raw_volume, to_canonical
from perpixel.labels.read import whole_numbers

ADOPTED = "the label's file has no orientation: it is taken to match its image voxel by voxel"


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """A label map as its file has it, before any class table.

    Attributes:
        values: (D, H, W) integers in the canonical orientation.
        geometry: of `values`.
        header: of the file, in its own order of axes.
        difference: how it does not lie on the image that it was read for; empty where it does.
        notes: what was missing in the file, broken or assumed.
    """

    values: np.ndarray
    geometry: Geometry
    header: VolumeHeader
    difference: GeometryDifference
    notes: tuple[str, ...]

    @property
    def is_float(self) -> bool:
        """Whether the file stores float, or scales whole numbers."""
        return self.header.dtype.startswith("float")


def read_label_volume(path: str | Path, *, image: VolumeHeader | None = None) -> LabelVolume:
    """Read a label map of 8 to 64 bits; whole numbers stored as float are taken.

    Args:
        image: header of the image that it belongs to: a label without orientation is read as the image is.
    Raises:
        InputError: missing, damaged, one slice only, several volumes, or values that are no whole numbers of 32 bits.
    """
    source = Path(path)
    raw = read_raw_volume(source)
    header = raw.header
    if header.channels != 1:
        raise InputError(
            f"{source}: a 4-D file of {header.channels} volumes, where a label map has one value a voxel: save the "
            "classes as numbers in one volume"
        )
    stored, difference = lies_on(header, image) if image is not None else (header.geometry, GeometryDifference())
    turn = to_canonical(stored)
    values = np.ascontiguousarray(turn.apply(whole_numbers(source, raw.array[0])))
    adopted = image is not None and stored is image.geometry and header.format == "nifti" and not header.has_orientation
    return LabelVolume(values, turn.geometry(stored), header, difference, (ADOPTED,) if adopted else header.notes)
