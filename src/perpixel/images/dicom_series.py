"""A DICOM series, one file a slice, by pydicom: sorted along the normal of the slices, spacing from their positions.

PS3.3 C.7.6.2: ImageOrientationPatient gives the directions of a row and of a column, ImagePositionPatient the centre
of the first voxel, both with x to the left and y to the back, which is turned here. Neither file names nor
InstanceNumber nor SliceThickness are asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perpixel.errors import InputError, import_extra
from perpixel.images.geometry import Geometry, is_sound_affine
from perpixel.images.raw_volume import RawVolume, VolumeHeader, check_volume_size, three_sides

DICOM_START = b"DICM"
# Slices may lie this share of their distance off an even grid.
UNEVEN_SHARE = 0.02
SAME_DIRECTION = 1e-3
SHEARED = 1e-3
SHOWN = 3


@dataclass(frozen=True, eq=False)
class Slice:
    """One file: what its header says."""

    path: Path
    position: np.ndarray
    row_direction: np.ndarray
    col_direction: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    series: str


def is_dicom_folder(path: Path) -> bool:
    """Whether a folder holds a DICOM file."""
    return path.is_dir() and any(has_dicom_start(file) for file in sorted(path.iterdir()) if file.is_file())


def has_dicom_start(path: Path) -> bool:
    """By the bytes behind the preamble."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == DICOM_START


def dicom_header(folder: Path) -> VolumeHeader:
    """The headers of all files of a folder; no pixels are read."""
    return _facts(folder, _slices(folder))[0]


def read_dicom(folder: Path) -> RawVolume:
    """The slices of the one series in a folder, in units of the rescale (Hounsfield units for CT)."""
    header, slices = _facts(folder, _slices(folder))
    parts = [_values(one) for one in slices]
    return RawVolume(header, np.stack(parts)[None])


def _slices(folder: Path) -> list[Slice]:
    if not folder.is_dir():
        raise InputError(f"{folder}: a single DICOM file: give the folder of the whole series")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and has_dicom_start(path)]
    slices = [_slice(path) for path in files if path.name != "DICOMDIR"]
    if len(slices) < 2:
        raise InputError(f"{folder}: {len(slices)} DICOM slices: a volume needs two or more files of one series")
    return slices


def _slice(path: Path) -> Slice:
    pydicom = import_extra("pydicom", "dicom")
    header = pydicom.dcmread(path, stop_before_pixels=True)
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise InputError(f"{path}: a DICOM file of several frames: convert it to NIfTI (dcm2niix)")
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    missing = [name for name in needed if header.get(name) is None]
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}, so its slice has no place: take the file out")
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{path}: a colour picture, no slice of a volume: take the file out")
    turn = np.array([-1.0, -1.0, 1.0])
    along = np.asarray(header.ImageOrientationPatient, float).reshape(2, 3) * turn
    rows, cols = (float(side) for side in header.PixelSpacing)
    position = np.asarray(header.ImagePositionPatient, float) * turn
    # The first direction runs along a row, so from column to column.
    return Slice(
        path,
        position,
        along[1],
        along[0],
        (rows, cols),
        (int(header.Rows), int(header.Columns)),
        str(header.get("SeriesInstanceUID", "")),
    )


def _facts(folder: Path, slices: list[Slice]) -> tuple[VolumeHeader, list[Slice]]:
    """Header, and the slices in order."""
    _refuse_mixed(folder, slices)
    first = slices[0]
    normal = np.cross(first.col_direction, first.row_direction)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    step = _even_step(folder, ordered, normal)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.row_direction * first.spacing[0]
    affine[:3, 2] = first.col_direction * first.spacing[1]
    affine[:3, 3] = ordered[0].position
    if not is_sound_affine(affine):
        raise InputError(f"{first.path}: its position, orientation or spacing is broken: copy the series again")
    across = np.cross(normal, step / np.linalg.norm(step))
    tilted = np.linalg.norm(across) > SHEARED
    notes = ("the slices are shifted against each other (tilted gantry): the affine is sheared",) if tilted else ()
    sides = three_sides(folder, (len(ordered), *first.size))
    check_volume_size(folder, sides, 1, np.dtype(np.float32))
    return VolumeHeader("dicom", Geometry(sides, affine), 1, "float32", notes=notes), ordered


def _refuse_mixed(folder: Path, slices: list[Slice]) -> None:
    series = Counter(one.series for one in slices)
    if len(series) > 1:
        counts = ", ".join(f"{count} files of {uid[-12:]}" for uid, count in series.most_common(SHOWN))
        raise InputError(f"{folder}: {len(series)} DICOM series are mixed ({counts}): one folder a series")
    first = slices[0]
    for one in slices:
        for what, same in (
            ("size", one.size == first.size),
            ("pixel spacing", np.allclose(one.spacing, first.spacing, rtol=1e-3)),
            (
                "orientation",
                np.allclose(one.row_direction, first.row_direction, atol=SAME_DIRECTION)
                and np.allclose(one.col_direction, first.col_direction, atol=SAME_DIRECTION),
            ),
        ):
            if not same:
                raise InputError(
                    f"{one.path}: another {what} than {first.path.name}, though of one series (a localiser?): "
                    "take the file out"
                )


def _even_step(folder: Path, ordered: list[Slice], normal: np.ndarray) -> np.ndarray:
    """The vector from slice to slice.

    Raises:
        InputError: two slices at one place, or gaps.
    """
    heights = np.array([float(one.position @ normal) for one in ordered])
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if (gaps <= UNEVEN_SHARE * abs(usual)).any():
        twice = int(np.argmin(gaps))
        names = f"{ordered[twice].path.name}, {ordered[twice + 1].path.name}"
        raise InputError(
            f"{folder}: two slices at one position ({names}): several volumes in one series (time points, echoes): "
            "put each into a folder of its own"
        )
    wrong = np.flatnonzero(np.abs(gaps - usual) > UNEVEN_SHARE * usual)
    if len(wrong):
        place = int(wrong[0])
        raise InputError(
            f"{folder}: {len(wrong)} gaps between slices differ from the usual {usual:.4g} mm (the first, "
            f"{gaps[place]:.4g} mm, is behind {ordered[place].path.name}): slices are missing: copy the whole series"
        )
    return np.asarray((ordered[-1].position - ordered[0].position) / (len(ordered) - 1))


def _values(one: Slice) -> np.ndarray:
    pydicom = import_extra("pydicom", "dicom")
    data = pydicom.dcmread(one.path)
    values = np.asarray(data.pixel_array)
    if values.shape != one.size:
        raise InputError(f"{one.path}: {values.shape} pixels where its header has {one.size}: copy it again")
    slope, intercept = float(data.get("RescaleSlope", 1) or 1), float(data.get("RescaleIntercept", 0) or 0)
    return (values * slope + intercept).astype(np.float32)
