"""Image files -> arrays: EXIF orientation honoured, 16-bit and float kept, sizes checked before anything is decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.images.guard import MAX_PIXELS, ImageInfo, check_frame, check_pixels, guarded
from perpixel.images.pillow_files import pillow_header, read_pillow
from perpixel.images.raw import Header, RawImage, colours_of, without_opaque_alpha
from perpixel.images.tiff_files import TIFF_SUFFIXES, is_tiff, read_tiff, tiff_header

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}) | TIFF_SUFFIXES


def probe_image(path: str | Path) -> ImageInfo:
    """Size, channels, dtype and frames, as `read_image` will give them; from the header.

    Only a file with an alpha channel is decoded, since alpha that is opaque everywhere is no channel of the image.

    Raises:
        InputError: missing, damaged, or not an image.
    """
    source = Path(path)
    header = _header(source)
    if not header.alpha:
        return header.info
    image = _uniform(source, read_checked(source, header, None, MAX_PIXELS))
    return replace(header.info, channels=image.shape[2])


def read_image(path: str | Path, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one image.

    Grey images have one channel; palettes become RGB, 1-bit becomes 0 and 255. Alpha that is opaque everywhere is
    dropped, other alpha gives RGBA. Frames of a GIF or of an animated WebP are RGB.

    Args:
        frame: index into a stack or animation; None only where there is one frame.
        max_pixels: largest height * width that is decoded.
    Returns:
        (H, W, C) uint8, uint16 or float32, writable, C order. Other integer types and float64 become float32.
    Raises:
        InputError: missing, damaged, too large, a frame that is not there, NaN or infinite values.
    """
    source = Path(path)
    return _uniform(source, read_raw(source, frame=frame, max_pixels=max_pixels))


def read_raw(path: Path, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> RawImage:
    """What the file holds, upright: palette indices and integer types are kept, which masks need.

    Raises:
        InputError: missing, damaged, too large, a frame that is not there.
    """
    return read_checked(path, _header(path), frame, max_pixels)


def read_checked(path: Path, header: Header, frame: int | None, max_pixels: int) -> RawImage:
    """Decode `path` if its header promises what can be held."""
    check_pixels(path, header.info, max_pixels, kind="TIFF" if is_tiff(path) else "")
    check_frame(path, header.info, frame)
    return guarded(path, lambda file: (read_tiff if is_tiff(file) else read_pillow)(file, frame or 0))


def _header(path: Path) -> Header:
    return guarded(path, lambda file: tiff_header(file) if is_tiff(file) else pillow_header(file))


def _uniform(path: Path, raw: RawImage) -> np.ndarray:
    """(H, W, C) uint8, uint16 or finite float32, writable, C order."""
    image = raw.values if raw.palette is None else colours_of(raw.values[..., 0], raw.palette)
    if raw.inverted:
        image = ~image if image.dtype == bool else (raw.white - image).astype(image.dtype)
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif raw.white != 255 and not raw.inverted:
        image = image * np.uint8(255 // raw.white)
    if raw.alpha:
        image = without_opaque_alpha(image)
    if image.dtype not in (np.uint8, np.uint16):
        with np.errstate(all="ignore"):
            image = image.astype(np.float32)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise InputError(f"{path}: {bad} of {image.size} values are NaN or infinite: replace them by numbers")
    return np.array(image, order="C", copy=not (image.flags.c_contiguous and image.flags.writeable))
