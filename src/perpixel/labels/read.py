"""Mask files -> raw values, before any class table is laid over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageOps

from perpixel.errors import InputError
from perpixel.images import guarded, open_pillow, probe_image, read_image
from perpixel.images.read import TIFF_SUFFIXES, check_pixels

LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})


@dataclass(frozen=True)
class RawMask:
    """A mask as its file has it.

    Attributes:
        values: (H, W) integers, or (H, W, 3) uint8 colours.
        palette: (256, 3) uint8 of an indexed file, else None.
        lossy: the compression may have changed values.
        kind: "index" (grey or integer), "palette", "rgb" or "bool" (1-bit: 0 and 1).
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    lossy: bool = False
    kind: str = "index"


def read_mask(path: str | Path, *, frame: int | None = None) -> RawMask:
    """Read a mask: indexed, grey, palette, RGB, 1-bit; 8, 16 or 32 bits; whole numbers stored as float.

    Colour masks whose three channels are equal are read as grey; alpha is dropped where it is 255 everywhere.

    Raises:
        InputError: missing, damaged, several channels that are no colours, or values that are not whole numbers.
    """
    source = Path(path)
    if source.suffix.lower() in TIFF_SUFFIXES:
        return _from_image(source, read_image_values(source, frame))
    check_pixels(source, probe_image(source))
    mask: RawMask = guarded(source, lambda file: _read_pillow(file, frame or 0))
    return mask


def read_image_values(path: Path, frame: int | None) -> np.ndarray:
    """(H, W, C) of a TIFF mask. Integers above 16 bits come as float32, which is exact below 2**24."""
    return read_image(path, frame=frame)


def _read_pillow(path: Path, frame: int) -> RawMask:
    lossy = path.suffix.lower() in LOSSY_SUFFIXES or _is_lossy_webp(path)
    with open_pillow(path) as opened:
        if frame:
            opened.seek(frame)
        image = ImageOps.exif_transpose(opened)
        if image.mode == "1":
            return RawMask(np.asarray(image).astype(np.uint8), kind="bool")
        if image.mode == "P":
            return RawMask(np.array(image), _palette(image.getpalette() or []), lossy, "palette")
    return _from_image(path, read_image(path, frame=frame if frame else None), lossy)


def _palette(flat: list[int]) -> np.ndarray:
    colours = np.zeros((256, 3), np.uint8)
    listed = np.array(flat, np.uint8).reshape(-1, 3)[:256]
    colours[: len(listed)] = listed
    return colours


def _from_image(path: Path, image: np.ndarray, lossy: bool = False) -> RawMask:
    if image.dtype == np.float32:
        whole = np.rint(image)
        if not (whole == image).all() or whole.min() < 0 or whole.max() >= 2**31:
            example = image[(whole != image) | (whole < 0)].ravel()
            shown = f"{example[0]:g}" if example.size else f"{whole.max():g}"
            raise InputError(f"{path}: holds {shown}, and a mask holds whole numbers from 0: save class indices instead")
        image = whole.astype(np.int32)
    if image.shape[2] in (3, 4) and image.dtype == np.uint8:
        if image.shape[2] == 4 and not (image[..., 3] == 255).all():
            raise InputError(f"{path}: a mask with transparency has no clear values: save it without alpha")
        colours = image[..., :3]
        if (colours[..., :1] == colours).all():
            return RawMask(np.ascontiguousarray(colours[..., 0]), None, lossy, "index")
        return RawMask(np.ascontiguousarray(colours), None, lossy, "rgb")
    if image.shape[2] != 1:
        raise InputError(f"{path}: {image.shape[2]} channels, and a mask has one value or one colour a pixel: save it so")
    return RawMask(np.ascontiguousarray(image[..., 0]), None, lossy, "index")


def _is_lossy_webp(path: Path) -> bool:
    if path.suffix.lower() != ".webp":
        return False
    with open(path, "rb") as file:
        return b"VP8L" not in file.read(256)
