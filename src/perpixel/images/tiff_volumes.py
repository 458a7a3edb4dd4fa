"""TIFF stacks as volumes: all pages in their order, voxel sizes from ImageJ's or OME's metadata."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from perpixel.errors import InputError
from perpixel.files import atomic
from perpixel.images.geometry import Geometry
from perpixel.images.raw_volume import RawVolume, VolumeHeader, check_volume_size, three_sides
from perpixel.images.tiff_files import check_page_chain, series_roles

UNITS_MM = {
    "a": 1e-7, "å": 1e-7, "angstrom": 1e-7,
    "nm": 1e-6, "nanometer": 1e-6,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "\\u00b5m": 1e-3,
    "mm": 1.0, "millimeter": 1.0,
    "cm": 10.0, "centimeter": 10.0,
    "m": 1000.0, "meter": 1000.0,
    "inch": 25.4, "in": 25.4,
}  # fmt: skip


def stack_affine(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Of (pages, rows, columns) that are taken to run towards superior, posterior and left, as the canonical axes."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = spacing_mm[0], -spacing_mm[1], -spacing_mm[2], 1
    return affine


def tiff_volume_header(path: Path) -> VolumeHeader:
    """The header of a stack; nothing is decoded."""
    check_page_chain(path)
    with tifffile.TiffFile(path) as file:
        return _facts(path, file)


def read_tiff_volume(path: Path) -> RawVolume:
    """All pages of the first series."""
    check_page_chain(path)
    with tifffile.TiffFile(path) as file:
        header = _facts(path, file)
        series = file.series[0]
        roles = series_roles(series)
        data = np.asarray(series.asarray())
        order = [roles.index(role) for role in ("height", "width")]
        frames = [i for i, role in enumerate(roles) if role == "frames"]
        channels = [i for i, role in enumerate(roles) if role == "channels"]
        array = data.transpose(*channels, *frames, *order).reshape(header.channels, *header.geometry.shape)
    return RawVolume(header, array.astype(array.dtype.newbyteorder("="), copy=False))


def write_tiff_volume(path: Path, array: np.ndarray, geometry: Geometry, *, has_spacing: bool) -> Path:
    """Write (D, H, W) of 8 or 16 bits or float32 as an ImageJ stack with its voxel sizes, atomically."""
    stack = array.astype(np.uint8) if array.dtype == bool else array
    if stack.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"{path}: values of {stack.dtype} do not fit an ImageJ stack: write a .nii.gz")
    depth, height, width = geometry.spacing_mm
    known: dict[str, Any] = {"resolution": (1 / width, 1 / height)} if has_spacing else {}
    metadata = {"axes": "ZYX", **({"spacing": depth, "unit": "mm"} if has_spacing else {})}
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, np.ascontiguousarray(stack), imagej=True, metadata=metadata, **known)
    return path


def _facts(path: Path, file: tifffile.TiffFile) -> VolumeHeader:
    series = file.series[0]
    roles = series_roles(series)
    counts = {role: math.prod(n for r, n in zip(roles, series.shape) if r == role) for role in set(roles)}
    if sum(role == "frames" and side > 1 for role, side in zip(roles, series.shape)) > 1:
        raise InputError(f"{path}: a stack of axes {series.axes}: save each volume (Z, Y, X) as a file of its own")
    depth = counts.get("frames", 1)
    sides = three_sides(path, (depth, counts["height"], counts["width"]))
    dtype = np.dtype(series.dtype).newbyteorder("=")
    if dtype.kind not in "buif":
        raise InputError(f"{path}: values of type {dtype}: save them as whole numbers or float")
    check_volume_size(path, sides, counts.get("channels", 1), dtype)
    spacing = _spacing_mm(file)
    notes = () if spacing else ("no voxel size (neither ImageJ's nor OME's): 1 mm is assumed",)
    geometry = Geometry(sides, stack_affine(spacing or (1.0, 1.0, 1.0)))
    return VolumeHeader("tiff", geometry, counts.get("channels", 1), dtype.name, bool(spacing), False, notes)


def _spacing_mm(file: tifffile.TiffFile) -> tuple[float, float, float] | None:
    """(page, row, column), or None where the file does not give all three."""
    found = None
    if file.is_ome and file.ome_metadata:
        found = _ome_spacing(file.ome_metadata)
    elif file.is_imagej and file.imagej_metadata:
        found = _imagej_spacing(file.imagej_metadata, file.pages.first)
    if found is None or not all(math.isfinite(side) and 0 < side < 1e9 for side in found):
        return None
    return found


def _ome_spacing(text: str) -> tuple[float, float, float] | None:
    # A document type would be the way to a bomb of entities; OME has none.
    if "<!DOCTYPE" in text:
        return None
    pixels = next((node for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None
    sides = []
    for axis in "ZYX":
        unit = UNITS_MM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        if size is None or unit is None:
            return None
        sides.append(size * unit)
    return sides[0], sides[1], sides[2]


def _imagej_spacing(metadata: dict[str, Any], page: Any) -> tuple[float, float, float] | None:
    unit = UNITS_MM.get(str(metadata.get("unit", "")).strip().lower())
    depth = _number(metadata.get("spacing"))
    if unit is None or depth is None:
        return None
    sides = [depth * unit]
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        if tag is None or not tag.value[0]:
            return None
        sides.append(tag.value[1] / tag.value[0] * unit)  # the tag is pixels over length
    return sides[0], sides[1], sides[2]


def _number(value: Any) -> float | None:
    if value is None or not re.fullmatch(r"[-+0-9.eE]+", str(value).strip()):
        return None
    try:
        return float(value)
    except ValueError:
        return None
