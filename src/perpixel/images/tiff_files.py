"""TIFF by tifffile: axes of any order, planar channels, stacks, palettes, and numbers that Pillow does not know."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC

from perpixel.images.guard import MAX_BYTES, ImageInfo
from perpixel.images.raw import ORIENTATION_TAG, Header, RawImage, known_orientation, turns_sides, upright

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Pages of a stack are frames; other axes that hold more than one value are channels.
FRAME_AXES = "IZTQRP"
# An array (H, W, C) that was written as it is gets pages of W x C: so narrow, and no image, the sides are many times C.
MAX_TRAILING_CHANNELS = 16
LEAST_SIDES = 4
ALPHA_KINDS = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
# tifffile takes no more tags a page.
MAX_TAGS = 4096
MAX_OFFSET = 2**62
KEPT_TYPES = {"uint8": "uint8", "uint16": "uint16", "bool": "uint8"}
LOSSY_COMPRESSIONS = (
    tifffile.COMPRESSION.OJPEG,
    tifffile.COMPRESSION.JPEG,
    tifffile.COMPRESSION.JPEG_LOSSY,
    tifffile.COMPRESSION.WEBP,
)


def is_tiff(path: Path) -> bool:
    """By its first bytes, whatever its suffix."""
    with open(path, "rb") as file:
        return file.read(4) in TIFF_STARTS


def tiff_header(path: Path) -> Header:
    """The header of the first series of a TIFF. Nothing is decoded."""
    check_page_chain(path)
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        roles = series_roles(series)
        height, width = (int(series.shape[roles.index(role)]) for role in ("height", "width"))
        frames = math.prod(side for role, side in zip(roles, series.shape) if role == "frames")
        channels = math.prod(side for role, side in zip(roles, series.shape) if role == "channels")
        if turns_sides(_orientation(page)):
            height, width = width, height
        stored = np.dtype(series.dtype).newbyteorder("=")
        dtype = KEPT_TYPES.get(stored.name, "float32")
        if _has_palette(page, channels, stored):
            channels, dtype = 3, "uint8"
        elif _is_cmyk(page, channels, stored):
            channels = 3
        return Header(ImageInfo(height, width, channels, dtype, frames), frames == 1 and _has_alpha(page, channels))


def read_tiff(path: Path, frame: int) -> RawImage:
    """Decode one frame; palettes keep their indices."""
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        image = _frame_values(series, frame)
        if image.dtype.kind not in "buif":
            raise ValueError(f"values of type {image.dtype}")
        image = image.astype(image.dtype.newbyteorder("="), copy=False)
        channels = image.shape[2]
        palette = None
        if _has_palette(page, channels, image.dtype):
            palette = _palette(page)
        elif _is_cmyk(page, channels, image.dtype):
            image = _from_cmyk(image)
        inverted = page.photometric == PHOTOMETRIC.MINISWHITE and image.dtype.kind in "bu"
        white = 2 ** int(page.bitspersample) - 1 if inverted and image.dtype.kind == "u" else 255
        one_frame = math.prod(side for role, side in zip(series_roles(series), series.shape) if role == "frames") == 1
        alpha = palette is None and one_frame and _has_alpha(page, image.shape[2])
        lossy = page.compression in LOSSY_COMPRESSIONS
        return RawImage(upright(image, _orientation(page)), palette, alpha, lossy, white, inverted)


# ---- pages


def check_page_chain(path: Path) -> None:
    """Refuse a file whose pages point back to earlier ones: tifffile would follow them for ever."""
    with open(path, "rb") as file:
        start = file.read(16)
        order: Literal["little", "big"] = "little" if start[:2] == b"II" else "big"
        is_big = 43 in start[2:4]
        count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if is_big else (2, 12, 4)
        place = int.from_bytes(start[8:16] if is_big else start[4:8], order)
        seen = set()
        while place:
            if place in seen:
                raise ValueError(f"its pages point in a circle, at byte {place}")
            seen.add(place)
            file.seek(min(place, MAX_OFFSET))
            entries = int.from_bytes(file.read(count_bytes), order)
            if entries > MAX_TAGS:
                return  # tifffile says what is wrong there
            file.seek(entries * entry_bytes, os.SEEK_CUR)
            place = int.from_bytes(file.read(offset_bytes), order)


# ---- axes


def series_roles(series: tifffile.TiffPageSeries) -> list[str]:
    """What each axis is: "height", "width", "frames" or "channels"."""
    if series.axes.count("Y") != 1 or series.axes.count("X") != 1 or len(series.axes) != len(series.shape):
        raise ValueError(f"axes {series.axes} instead of one Y and one X")
    if _is_array_of_channels(series):
        return ["height", "width", "channels"]
    names = {"Y": "height", "X": "width"}
    return [
        names.get(axis, "frames" if axis in FRAME_AXES and side != 1 else "channels")
        for axis, side in zip(series.axes, series.shape)
    ]


def _is_array_of_channels(series: tifffile.TiffPageSeries) -> bool:
    """Whether a nameless (N, Y, X) is an (H, W, C) array of few channels, as `tifffile.imwrite` stores one."""
    if series.kind != "shaped" or series.axes != "QYX":
        return False
    rows, cols, channels = (int(side) for side in series.shape)
    return channels <= MAX_TRAILING_CHANNELS and min(rows, cols) >= LEAST_SIDES * channels


def _frame_values(series: tifffile.TiffPageSeries, frame: int) -> np.ndarray:
    """(H, W, C) of one frame, decoding no other frame where the file's order allows."""
    roles, shape = series_roles(series), tuple(int(side) for side in series.shape)
    leading = next((i for i, role in enumerate(roles) if role != "frames"), len(roles))
    frames = math.prod(shape[:leading])
    if frames > 1 and "frames" not in roles[leading:]:
        if len(series.pages) % frames == 0:
            data = _pages(series, frame, len(series.pages) // frames)
            return _channels_last(data.reshape(shape[leading:]), roles[leading:])
        if series.dataoffset is not None:  # one block that all frames lie in, as ImageJ writes it
            dtype = np.dtype(series.keyframe.parent.byteorder + series.dtype.char)
            size = math.prod(shape[leading:])
            data = _block(series, dtype, series.dataoffset + frame * size * dtype.itemsize, size)
            return _channels_last(data.reshape(shape[leading:]), roles[leading:])
    return _of_all(series, roles, frame)


def _pages(series: tifffile.TiffPageSeries, frame: int, per_frame: int) -> np.ndarray:
    parts = [series.pages[i] for i in range(frame * per_frame, (frame + 1) * per_frame)]
    if any(part is None for part in parts):
        raise ValueError(f"a page of frame {frame} is missing")
    return np.stack([np.asarray(part.asarray()) for part in parts if part is not None])


def _block(series: tifffile.TiffPageSeries, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    handle = series.keyframe.parent.filehandle
    handle.seek(offset)
    return np.asarray(handle.read_array(dtype, count))


def _of_all(series: tifffile.TiffPageSeries, roles: list[str], frame: int) -> np.ndarray:
    size = math.prod(series.shape) * np.dtype(series.dtype).itemsize
    if size > MAX_BYTES:
        raise ValueError(f"{size >> 30} GiB in an order of axes, {series.axes}, that must be read as a whole")
    data = np.asarray(series.asarray())
    order = [i for i, role in enumerate(roles) if role == "frames"]
    rest = [i for i, role in enumerate(roles) if role != "frames"]
    stack = data.transpose(order + rest).reshape(-1, *(data.shape[i] for i in rest))
    return _channels_last(stack[frame], [roles[i] for i in rest])


def _channels_last(data: np.ndarray, roles: list[str]) -> np.ndarray:
    row, col = roles.index("height"), roles.index("width")
    order = [row, col] + [i for i in range(data.ndim) if i not in (row, col)]
    return data.transpose(order).reshape(data.shape[row], data.shape[col], -1)


# ---- tags


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION_TAG)
    return 1 if tag is None else known_orientation(tag.value)


def _has_alpha(page: Any, channels: int) -> bool:
    kinds = page.extrasamples
    expected = {PHOTOMETRIC.RGB: 4, PHOTOMETRIC.MINISBLACK: 2}.get(page.photometric)
    return channels == expected and len(kinds) == 1 and kinds[0] in ALPHA_KINDS


def _has_palette(page: Any, channels: int, dtype: np.dtype) -> bool:
    if dtype not in (np.uint8, np.uint16):
        return False
    return page.photometric == PHOTOMETRIC.PALETTE and channels == 1 and page.colormap is not None


def _palette(page: Any) -> np.ndarray:
    """(N, 3) uint8 of a colour map of 16 bits, or of 8 as some programs write it."""
    colours = np.asarray(page.colormap).T
    return (colours if int(colours.max(initial=0)) < 256 else colours >> 8).astype(np.uint8)


def _is_cmyk(page: Any, channels: int, dtype: np.dtype) -> bool:
    return page.photometric == PHOTOMETRIC.SEPARATED and channels == 4 and dtype == np.uint8


def _from_cmyk(image: np.ndarray) -> np.ndarray:
    ink = 255 - image.astype(np.uint16)
    return ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)
