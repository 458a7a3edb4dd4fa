"""The images or volumes that a path means."""

from __future__ import annotations

from pathlib import Path

from perpixel.data.formats.folder_words import image_files, is_readable, walk
from perpixel.errors import InputError
from perpixel.images import is_dicom_folder, is_zarr

NOUNS = {"image": "an image", "volume": "a volume"}


def open_images(path: str | Path, *, spatial_dims: int = 2) -> list[Path]:
    """The images to predict: a file, all images under a folder, or a pattern such as "scans/*.tif"; sorted by path.

    Args:
        spatial_dims: 3 = volumes; a folder of DICOM files is one.
    Raises:
        InputError: nothing there, or a file that is no image.
    """
    place = Path(path)
    noun = "volume" if spatial_dims == 3 else "image"
    if place.is_file():
        if not is_readable(place, spatial_dims):
            raise InputError(f"{place}: '{place.suffix}' is no {noun} suffix that can be read: give {NOUNS[noun]}")
        return [place]
    if spatial_dims == 3 and (is_zarr(place) or is_dicom_folder(place)):
        return [place]
    if place.is_dir():
        readable = [file for file in walk(place) if is_readable(file, spatial_dims)]
        found = image_files(place, spatial_dims) or readable
    else:
        base = Path(place.anchor) if place.anchor else Path()
        pattern = str(place.relative_to(place.anchor)) if place.anchor else str(place)
        has_star = "*" in pattern or "?" in pattern
        found = sorted(file for file in base.glob(pattern) if is_readable(file, spatial_dims)) if has_star else []
    if not found:
        raise InputError(
            f"{place}: no {noun}s there: give {NOUNS[noun]}, a folder or a pattern in quotes such as "
            f"'scans/*{'.nii.gz' if spatial_dims == 3 else '.tif'}'"
        )
    return found
