"""OME-Zarr (0.4 and 0.5) and plain zarr arrays: scale transforms, channel axis, and parts of a volume by chunks.

https://ngff.openmicroscopy.org/0.5/: the first dataset of the first multiscale is the full resolution; its scale, and
that of the whole multiscale, give the voxel size in the units of the axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perpixel.errors import InputError, import_extra
from perpixel.files import read_json
from perpixel.images.geometry import Geometry
from perpixel.images.raw_volume import RawVolume, VolumeHeader, check_volume_size, three_sides
from perpixel.images.tiff_volumes import stack_affine

UNITS_MM = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1e3,
}
MARKS = ("zarr.json", ".zarray", ".zgroup")
SPACE = ("z", "y", "x")


def is_zarr(path: Path) -> bool:
    """Whether the folder is a zarr array or group."""
    return path.is_dir() and any((path / mark).is_file() for mark in MARKS)


def zarr_header(path: Path) -> VolumeHeader:
    """Shape, type and spacing; no chunk is read."""
    return _open(path)[0]


def read_zarr(path: Path) -> RawVolume:
    """The whole volume at full resolution."""
    header, array, axes = _open(path)
    check_volume_size(path, header.geometry.shape, header.channels, np.dtype(array.dtype))
    return RawVolume(header, _in_order(np.asarray(array[...]), axes))


def read_zarr_region(path: str | Path, region: tuple[slice, slice, slice]) -> np.ndarray:
    """A box (depth, row, column) of a volume, (C, D, H, W): only the chunks that it touches are read.

    Raises:
        InputError: no zarr volume.
    """
    _, array, axes = _open(Path(path))
    places = dict(zip(SPACE, region))
    return _in_order(np.asarray(array[tuple(places.get(axis, slice(None)) for axis in axes)]), axes)


def _open(path: Path) -> tuple[VolumeHeader, Any, list[str]]:
    """(header, the array of zarr, the names of its axes)."""
    zarr = import_extra("zarr", "zarr")
    attributes = _attributes(path)
    scales = attributes.get("ome", attributes).get("multiscales") if isinstance(attributes, dict) else None
    if not scales:
        array = zarr.open(str(path), mode="r")
        if not hasattr(array, "shape"):
            raise InputError(f"{path}: a zarr group without multiscales: give the array in it, or an OME-Zarr")
        axes = list("czyx"[4 - len(array.shape) :]) if len(array.shape) <= 4 else []
        return _facts(path, array, axes, None), array, axes
    first = scales[0]
    axes, units = _axes(path, first.get("axes") or [])
    array = zarr.open(str(path / str(first["datasets"][0]["path"])), mode="r")
    steps = [*first["datasets"][0].get("coordinateTransformations", ()), *first.get("coordinateTransformations", ())]
    scale = np.ones(len(axes))
    for step in steps:
        if step.get("type") == "scale":
            scale = scale * np.asarray(step["scale"], float)
    known = {axis: float(size) * unit for axis, size, unit in zip(axes, scale, units) if axis in SPACE and unit}
    spacing = (known["z"], known["y"], known["x"]) if len(known) == 3 and steps else None
    return _facts(path, array, axes, spacing), array, axes


def _attributes(path: Path) -> dict[str, Any]:
    if (path / "zarr.json").is_file():
        return dict(read_json(path / "zarr.json").get("attributes", {}))
    return dict(read_json(path / ".zattrs")) if (path / ".zattrs").is_file() else {}


def _axes(path: Path, axes: list[Any]) -> tuple[list[str], list[float]]:
    """Names of the axes, and what their units are in mm (0 = none given)."""
    if not axes:
        raise InputError(
            f"{path}: its multiscales name no axes (OME-Zarr before 0.4): convert it to OME-Zarr 0.4 or 0.5"
        )
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
    return [str(axis["name"]) for axis in named], [UNITS_MM.get(str(axis.get("unit", "")), 0.0) for axis in named]


def _facts(path: Path, array: Any, axes: list[str], spacing: tuple[float, float, float] | None) -> VolumeHeader:
    shape = tuple(int(side) for side in array.shape)
    if len(axes) != len(shape) or not set(axes) <= {"t", "c", *SPACE} or not {"y", "x"} <= set(axes):
        raise InputError(f"{path}: axes {''.join(axes) or shape}, where a volume has z, y, x and perhaps c: convert it")
    sides = dict(zip(axes, shape))
    if sides.get("t", 1) > 1:
        raise InputError(f"{path}: {sides['t']} time points: save the one wanted as a volume of its own")
    volume = three_sides(path, (sides.get("z", 1), sides["y"], sides["x"]))
    notes = () if spacing else ("no voxel size (a scale with units of length): 1 mm is assumed",)
    geometry = Geometry(volume, stack_affine(spacing or (1.0, 1.0, 1.0)))
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "buif":
        raise InputError(f"{path}: values of type {dtype}: save them as whole numbers or float")
    return VolumeHeader("zarr", geometry, sides.get("c", 1), dtype.name, bool(spacing), False, notes)


def _in_order(values: np.ndarray, axes: list[str]) -> np.ndarray:
    """(C, D, H, W)."""
    order = [axes.index(axis) for axis in ("t", "c", *SPACE) if axis in axes]
    turned = values.transpose(order)
    return turned.reshape(-1, *turned.shape[-3:])
