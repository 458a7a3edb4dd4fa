"""What a file of voxels holds, in its own order of axes, before it is brought into the canonical one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.images.geometry import Geometry
from perpixel.images.guard import MAX_BYTES

# More volumes in one file than this are time points, not channels.
MAX_VOLUME_CHANNELS = 16


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """What is known of a volume without its voxels.

    Attributes:
        format: "nifti", "tiff", "dicom" or "zarr".
        geometry: of the array as it is stored.
        channels: volumes that lie on this grid in one file.
        dtype: of the voxels after the file's own scaling.
        has_spacing: the file says how large its voxels are; else 1 mm is assumed.
        has_orientation: the file says where its axes run to; else the order of the file is taken for the canonical one.
        notes: a plain sentence for each thing that was missing, broken or assumed.
        nifti: header bytes of a NIfTI file, for writing with the very same numbers.
    """

    format: str
    geometry: Geometry
    channels: int
    dtype: str
    has_spacing: bool = True
    has_orientation: bool = True
    notes: tuple[str, ...] = ()
    nifti: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, eq=False)
class RawVolume:
    """A volume as it is stored: `array` is (C, three axes of the file), of the file's own type or scaled to float32."""

    header: VolumeHeader
    array: np.ndarray


def three_sides(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The sides of a volume.

    Raises:
        InputError: it is an image of two dimensions.
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) < 3 or min(sides[:3]) == 1:
        flat = " x ".join(str(side) for side in sides if side != 1) or "1"
        raise InputError(
            f"{path}: holds one slice of {flat} pixels, where a volume is needed: give a file with several slices, or "
            "save the slices as PNG or TIFF images and work in two dimensions"
        )
    return sides[0], sides[1], sides[2]


def check_volume_size(path: Path, shape: tuple[int, ...], channels: int, dtype: np.dtype) -> None:
    """Refuse time series, and what would unfold to more than memory should hold.

    Raises:
        InputError: as said.
    """
    if min(shape) < 1 or channels < 1:
        raise InputError(f"{path}: its header claims {shape} voxels: no volume: copy it again from its source")
    if channels > MAX_VOLUME_CHANNELS:
        raise InputError(
            f"{path}: a 4-D file of {channels} volumes, more than {MAX_VOLUME_CHANNELS} channels (a time series?): "
            "save the volumes wanted as files of their own"
        )
    size = math.prod(shape) * channels * dtype.itemsize
    if size > MAX_BYTES:
        raise InputError(
            f"{path}: {' x '.join(map(str, shape))} voxels, {channels} channels are over the limit of "
            f"{MAX_BYTES >> 30} GiB: cut the volume into parts first, or copy it again if it is not so large"
        )
