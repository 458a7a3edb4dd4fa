"""Files of voxels -> (C, D, H, W) in the canonical orientation, and label maps back into the source's own geometry.

volume = read_volume("scan.nii.gz")
volume.array, volume.spacing_mm                       # (C, D, H, W); (depth, row, column)
write_volume("scan_labels.nii.gz", label_map, volume.source)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.images.dicom_series import dicom_header, has_dicom_start, is_dicom_folder, read_dicom
from perpixel.images.geometry import Geometry, GeometryDifference, compare_geometries, to_canonical
from perpixel.images.guard import guarded
from perpixel.images.nifti_files import NIFTI_SUFFIXES, is_nifti, nifti_header, read_nifti, write_nifti
from perpixel.images.raw_volume import RawVolume, VolumeHeader
from perpixel.images.tiff_files import TIFF_SUFFIXES, is_tiff
from perpixel.images.tiff_volumes import read_tiff_volume, stack_affine, tiff_volume_header, write_tiff_volume
from perpixel.images.zarr_volumes import is_zarr, read_zarr, zarr_header

# What is a volume by its name alone; a TIFF may be one, and a folder of DICOM files is one.
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".zarr")
# May hold a volume or images.
STACK_SUFFIXES = tuple(sorted(TIFF_SUFFIXES))
# Other types become float32.
KEPT_TYPES = {"bool": "uint8", "int8": "int16", "uint8": "uint8", "int16": "int16", "uint16": "uint16"}


@dataclass(frozen=True)
class Reader:
    """How one format is read."""

    probe: Callable[[Path], VolumeHeader]
    read: Callable[[Path], RawVolume]


READERS = {
    "nifti": Reader(nifti_header, read_nifti),
    "tiff": Reader(tiff_volume_header, read_tiff_volume),
    "dicom": Reader(dicom_header, read_dicom),
    "zarr": Reader(zarr_header, read_zarr),
}


@dataclass(frozen=True, eq=False)
class VolumeSource:
    """Where a volume came from, enough to write into its own geometry.

    Attributes:
        header: of the first file, in its own order of axes.
    """

    paths: tuple[Path, ...]
    header: VolumeHeader

    @property
    def geometry(self) -> Geometry:
        """As stored."""
        return self.header.geometry


@dataclass(frozen=True, eq=False)
class VolumeInfo:
    """What headers say. `geometry` is the canonical one; `channels` counts all files."""

    geometry: Geometry
    channels: int
    dtype: str
    source: VolumeSource

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.header.notes


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in the canonical orientation.

    Attributes:
        array: (C, D, H, W) uint8, int16, uint16 or finite float32, C order.
        geometry: of (D, H, W).
    """

    array: np.ndarray
    geometry: Geometry
    source: VolumeSource

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(depth, row, column)."""
        return self.geometry.spacing_mm

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): (depth, row, column) -> mm to the right, to the front, upwards."""
        return self.geometry.affine

    @property
    def notes(self) -> tuple[str, ...]:
        """What was missing in the file, broken or assumed."""
        return self.source.header.notes


def volume_format(path: Path) -> str:
    """The name in READERS, by what the file is and not by its suffix.

    Raises:
        InputError: missing, a picture, or no volume.
    """
    if path.is_dir():
        if is_zarr(path):
            return "zarr"
        if is_dicom_folder(path):
            return "dicom"
        raise InputError(f"{path}: a folder without DICOM files and no zarr: give a volume or the folder of a series")
    if path.is_file() and path.stat().st_size:
        if is_tiff(path):
            return "tiff"
        if has_dicom_start(path):
            return "dicom"
        if is_nifti(path) or path.name.lower().endswith(NIFTI_SUFFIXES):
            return "nifti"
        raise InputError(
            f"{path}: no volume (NIfTI, TIFF stack, DICOM series or OME-Zarr): give a volume; pictures are read in two "
            "dimensions, and other formats want to be converted to .nii.gz"
        )
    return "nifti"  # missing and empty files: the guard says so


def probe_volume(path: str | Path | Sequence[str | Path]) -> VolumeInfo:
    """Geometry, channels and type from headers.

    Args:
        path: a file or folder, or one for each modality.
    Raises:
        InputError: missing, damaged, no volume, or modalities on different grids.
    """
    paths = _paths(path)
    headers = [guarded(one, _probe, what="a volume", takes_folders=True) for one in paths]
    _places(paths, headers)
    geometry = to_canonical(headers[0].geometry).geometry(headers[0].geometry)
    dtype = np.result_type(*(_kept(header.dtype) for header in headers)).name
    return VolumeInfo(geometry, sum(header.channels for header in headers), dtype, VolumeSource(paths, headers[0]))


def read_volume(path: str | Path | Sequence[str | Path]) -> Volume:
    """Read one volume, of one file or of one for each modality, whose channels are put together in this order.

    Raises:
        InputError: missing, damaged, one slice only, a time series, modalities on different grids, NaN or infinite
            voxels.
    """
    paths = _paths(path)
    raws = [read_raw_volume(one) for one in paths]
    places = _places(paths, [raw.header for raw in raws])
    parts = [_finite(one, _canonical(raw.array, place)) for one, raw, place in zip(paths, raws, places)]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    source = VolumeSource(paths, raws[0].header)
    return Volume(array, to_canonical(source.geometry).geometry(source.geometry), source)


def read_raw_volume(path: str | Path) -> RawVolume:
    """What one file holds, in its own order of axes and of its own type, which labels need.

    Raises:
        InputError: as `read_volume`, but for values, which are not looked at.
    """
    return guarded(Path(path), lambda one: READERS[volume_format(one)].read(one), what="a volume", takes_folders=True)


def write_volume(path: str | Path, array: np.ndarray, source: VolumeSource | Geometry) -> Path:
    """Write (D, H, W), or (C, D, H, W) probabilities, atomically.

    With a VolumeSource, `array` is in the canonical orientation, and the file gets the very shape, order of axes,
    affine and units of the source (of DICOM, TIFF and zarr those that NIfTI has for them: columns, rows, slices). Whole
    numbers take the smallest of uint8, uint16, int16 and int32 that holds them, other values float32.

    Args:
        path: `.nii.gz` or `.nii`; `.tif` for (D, H, W) of a source that is a TIFF stack or zarr.
        source: of the volume that the array belongs to, or the geometry of the array as it is.
    Raises:
        InputError: another suffix, another shape than the source, or the disk.
    """
    target, values = Path(path), _small_type(np.asarray(array))
    if isinstance(source, Geometry):
        header = VolumeHeader("", source, 1, values.dtype.name)
        shape, stored = source.shape, values
    else:
        header = source.header
        turn = to_canonical(header.geometry)
        shape, stored = turn.geometry(header.geometry).shape, values
        if values.shape[-3:] == shape:
            stored = turn.undo(values)
    if values.ndim not in (3, 4) or values.shape[-3:] != shape:
        raise InputError(
            f"{target}: an array of {values.shape} voxels does not lie on its source of {shape}: resample it"
        )
    if target.name.lower().endswith(NIFTI_SUFFIXES):
        if header.format == "nifti":
            return write_nifti(target, stored, header.geometry, header.nifti)
        return write_nifti(target, np.swapaxes(stored, -1, -3), _columns_first(header.geometry), b"")
    if target.suffix.lower() in TIFF_SUFFIXES and values.ndim == 3:
        if not np.allclose(header.geometry.affine, stack_affine(header.geometry.spacing_mm)):
            raise InputError(f"{target}: a TIFF stack cannot hold where its voxels lie: write a .nii.gz")
        return write_tiff_volume(target, stored, header.geometry, has_spacing=header.has_spacing)
    raise InputError(f"{target}: volumes are written as .nii.gz, .nii or (label maps) .tif: choose one of them")


def _columns_first(geometry: Geometry) -> Geometry:
    """The geometry with its axes the other way round, as NIfTI orders them."""
    slices, rows, cols = geometry.shape
    return Geometry((cols, rows, slices), geometry.affine[:, [2, 1, 0, 3]])


def lies_on(label: VolumeHeader, image: VolumeHeader) -> tuple[Geometry, GeometryDifference]:
    """How a label's file lies on its image's: the geometry to read it with (as stored), and what differs.

    A label without orientation, or on an image without one, is taken to match it voxel by voxel where the shapes, as
    stored, are the same.
    """
    bare = not (label.has_orientation and image.has_orientation)
    if bare and label.geometry.shape == image.geometry.shape:
        both_known = label.has_spacing and image.has_spacing and label.format == image.format != "nifti"
        if not both_known or np.allclose(label.geometry.spacing_mm, image.geometry.spacing_mm, rtol=1e-3):
            return image.geometry, GeometryDifference()
    canonical = [to_canonical(each.geometry).geometry(each.geometry) for each in (label, image)]
    return label.geometry, compare_geometries(*canonical)


def _paths(path: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    paths = (Path(path),) if isinstance(path, str | Path) else tuple(Path(one) for one in path)
    if not paths:
        raise InputError("no files to read a volume from: give one path or more")
    return paths


def _probe(path: Path) -> VolumeHeader:
    return READERS[volume_format(path)].probe(path)


def _places(paths: tuple[Path, ...], headers: list[VolumeHeader]) -> list[Geometry]:
    """The stored geometry to read each file with.

    Raises:
        InputError: a file does not lie on the first one.
    """
    places = [headers[0].geometry]
    for path, header in zip(paths[1:], headers[1:]):
        place, difference = lies_on(header, headers[0])
        if difference:
            raise InputError(
                f"{path}: does not lie on {paths[0].name} ({difference.text}): resample the modalities to one grid"
            )
        places.append(place)
    return places


def _kept(dtype: str) -> str:
    return KEPT_TYPES.get(dtype, "float32")


def _canonical(array: np.ndarray, stored: Geometry) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(to_canonical(stored).apply(array), dtype=_kept(array.dtype.name))


def _finite(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.float32:
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise InputError(f"{path}: {bad} of {array.size} voxels are NaN or infinite: replace them by numbers")
    return array


def _small_type(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind, copy=False)
    raise InputError(f"label values {low} to {high} do not fit 32 bits: relabel them")
