"""Pixels and voxels: read, write, value range, geometry, resize and resample, pad, tile. NumPy only."""

from perpixel.images.dicom_series import is_dicom_folder
from perpixel.images.geometry import Geometry, GeometryDifference, Reorientation, compare_geometries, to_canonical
from perpixel.images.guard import MAX_PIXELS, ImageInfo, check_pixels, guarded
from perpixel.images.intensity import VolumeNormalisation, normalise_ct, normalise_mr
from perpixel.images.pillow_files import open_pillow
from perpixel.images.raw import RawImage
from perpixel.images.raw_volume import RawVolume, VolumeHeader
from perpixel.images.read import IMAGE_SUFFIXES, probe_image, read_image, read_raw
from perpixel.images.resample import (
    Resampling,
    find_coarse_axis,
    plan_resampling,
    resample_image,
    resample_label_map,
    resample_probs,
    resampled_argmax,
    resampled_geometry,
    resampled_shape,
)
from perpixel.images.sizes import pad_to, resize_image, tile_grid
from perpixel.images.values import Normalisation, to_display
from perpixel.images.volumes import (
    STACK_SUFFIXES,
    VOLUME_SUFFIXES,
    Volume,
    VolumeInfo,
    VolumeSource,
    lies_on,
    probe_volume,
    read_raw_volume,
    read_volume,
    volume_format,
    write_volume,
)
from perpixel.images.write import write_png
from perpixel.images.zarr_volumes import is_zarr, read_zarr_region

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "STACK_SUFFIXES",
    "VOLUME_SUFFIXES",
    "Geometry",
    "GeometryDifference",
    "ImageInfo",
    "Normalisation",
    "RawImage",
    "RawVolume",
    "Reorientation",
    "Resampling",
    "Volume",
    "VolumeHeader",
    "VolumeInfo",
    "VolumeNormalisation",
    "VolumeSource",
    "check_pixels",
    "compare_geometries",
    "find_coarse_axis",
    "guarded",
    "is_dicom_folder",
    "is_zarr",
    "lies_on",
    "normalise_ct",
    "normalise_mr",
    "open_pillow",
    "pad_to",
    "plan_resampling",
    "probe_image",
    "probe_volume",
    "read_image",
    "read_raw",
    "read_raw_volume",
    "read_volume",
    "read_zarr_region",
    "resample_image",
    "resample_label_map",
    "resample_probs",
    "resampled_argmax",
    "resampled_geometry",
    "resampled_shape",
    "resize_image",
    "tile_grid",
    "to_canonical",
    "to_display",
    "volume_format",
    "write_png",
    "write_volume",
]
