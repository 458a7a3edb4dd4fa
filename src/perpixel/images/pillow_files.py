"""PNG, JPEG, BMP, GIF and WebP by Pillow; 16-bit colour PNG by OpenCV, since Pillow cuts it to 8 bits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from perpixel.images.guard import ImageInfo
from perpixel.images.raw import ORIENTATION_TAG, Header, RawImage, known_orientation, turns_sides, upright

# A multi-picture JPEG (MPO) is found as a JPEG; Pillow knows no opener of its own for it.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# First row and column of each pass of an interlaced PNG, and the steps to the next ones.
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
# Samples a pixel of each colour type of PNG.
PNG_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}
MAX_EXIF_BYTES = 2**20
# Channels of the modes that are read as they are; everything else (CMYK, YCbCr, ...) becomes RGB.
CHANNELS = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def open_pillow(path: Path) -> Image.Image:
    """Open one of our formats, whatever its suffix; to be called inside `guarded`, which lifts Pillow's size limit."""
    return Image.open(path, formats=FORMATS)


def pillow_header(path: Path) -> Header:
    """The header of a file that Pillow opens. Nothing is decoded."""
    with open_pillow(path) as image:
        frames = _frames(image)
        mode = _kept_mode(image)
        channels = CHANNELS[mode]
        alpha = mode in ("LA", "RGBA")
        if mode == "P":
            alpha = _has_transparency(image)
            channels = 4 if alpha else 3
        width, height = image.size
        if turns_sides(_orientation(path, image)):
            width, height = height, width
        dtype = "uint16" if _is_deep(path, image) else "uint8"
        return Header(ImageInfo(height, width, channels, dtype, frames), alpha)


def _frames(image: Image.Image) -> int:
    # A multi-picture JPEG (MPO) carries previews of the same photograph, not frames.
    return int(getattr(image, "n_frames", 1)) if image.format in ("GIF", "WEBP") else 1


def _is_animation(image: Image.Image) -> bool:
    return image.format == "GIF" or _frames(image) > 1


def _kept_mode(image: Image.Image) -> str:
    """The mode that an image is read in; "P" covers palettes, "L" also 16-bit grey."""
    if _is_animation(image):
        # Frames differ in mode and transparency: all become what the viewer sees.
        return "RGB"
    if image.mode.startswith("I"):
        return "L"
    if image.mode in ("PA", "RGBa", "La"):
        return "RGBA"
    return image.mode if image.mode in CHANNELS else "RGB"


def _has_transparency(image: Image.Image) -> bool:
    return "transparency" in image.info


def _is_deep(path: Path, image: Image.Image) -> bool:
    return _png_bits(path, image) == 16


def _png_bits(path: Path, image: Image.Image) -> int:
    """Bits a sample; 8 for what is no PNG."""
    if image.format != "PNG":
        return 8
    with open(path, "rb") as file:
        return file.read(25)[24]


def read_pillow(path: Path, frame: int) -> RawImage:
    """Decode one frame; palettes keep their indices."""
    with open_pillow(path) as image:
        orientation = _orientation(path, image)
        lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and _is_lossy_webp(path))
        mode = _kept_mode(image)
        is_animation = _is_animation(image)
        if frame:
            image.seek(frame)
        image.load()
        palette = None
        white = 255
        if image.mode == "P":
            palette = _palette(image, with_alpha=not is_animation)
            values = np.asarray(image)
        elif is_animation and image.mode == "L":
            values = np.asarray(image)
            palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        elif mode == "L" and _png_bits(path, image) in (2, 4):
            # Pillow spreads them over 0..255 for the eye; masks need the values themselves.
            white = 2 ** _png_bits(path, image) - 1
            values = np.asarray(image) // np.uint8(255 // white)
        elif _is_deep(path, image):
            values = np.asarray(image).astype(np.uint16) if mode == "L" else _deep_colours(path, CHANNELS[mode])
        else:
            values = np.asarray(image if image.mode == mode else image.convert(mode))
        if values.ndim == 2:
            values = values[..., None]
        alpha = mode in ("LA", "RGBA") or (palette is not None and palette.shape[1] == 4)
        return RawImage(upright(values, orientation), palette, alpha, lossy, white)


def _palette(image: Image.Image, *, with_alpha: bool) -> np.ndarray:
    """(N, 3), or (N, 4) where some entries are transparent."""
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if not with_alpha or not _has_transparency(image):
        return colours
    alpha = np.full(256, 255, np.uint8)
    given = image.info["transparency"]
    if isinstance(given, bytes):
        alpha[: min(256, len(given))] = np.frombuffer(given[:256], np.uint8)
    else:
        alpha[int(given)] = 0
    padded = np.zeros((256, 3), np.uint8)
    padded[: len(colours)] = colours
    return np.column_stack([padded, alpha])


# ---- orientation


def _orientation(path: Path, image: Image.Image) -> int:
    """The EXIF orientation. Pillow's own look-up would decode a whole PNG to find it."""
    try:
        if image.format == "PNG":
            data = _png_exif(path)
            if data is None:
                return 1
            exif = Image.Exif()
            exif.load(data)
            return known_orientation(exif.get(ORIENTATION_TAG))
        if image.format in ("JPEG", "MPO", "WEBP"):
            return known_orientation(image.getexif().get(ORIENTATION_TAG))
    except Exception:  # damaged EXIF in a sound picture: as stored
        return 1
    return 1


def _png_exif(path: Path) -> bytes | None:
    with open(path, "rb") as file:
        for kind, length in _png_chunks(file):
            if kind == b"eXIf" and length <= MAX_EXIF_BYTES:
                return file.read(length)
    return None


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, length of the body) of each chunk, the file standing at the body."""
    place = len(PNG_SIGNATURE)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        place += 12 + length


# ---- 16-bit colour PNG


def _deep_colours(path: Path, channels: int) -> np.ndarray:
    """(H, W, C) uint16 by OpenCV.

    Its libpng writes to the terminal about whatever is odd, so it gets a clean file: header and pixels, checked here.
    """
    image = cv2.imdecode(np.frombuffer(_clean_png(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        raise ValueError("16-bit PNG cannot be decoded")
    if image.ndim == 2:
        image = image[..., None]
    if channels == 2:  # grey with alpha comes as blue, green, red, alpha
        return image[..., [0, -1]]
    return image[..., [2, 1, 0, 3][:channels]]


def _clean_png(path: Path) -> bytes:
    """The 16-bit PNG, which Pillow has decoded before, without other chunks and with its pixels stored uncompressed."""
    bodies: dict[bytes, list[bytes]] = {b"IHDR": [], b"IDAT": []}
    with open(path, "rb") as file:
        for kind, length in _png_chunks(file):
            if kind == b"IEND":
                break
            if kind in bodies:
                bodies[kind].append(file.read(length))
    width, height, bits, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", bodies[b"IHDR"][0])
    passes = [
        (-(-(height - top) // row_step), 1 + 2 * PNG_SAMPLES[colour_type] * -(-(width - left) // col_step))
        for top, left, row_step, col_step in (ADAM7 if interlace else ((0, 0, 1, 1),))
        if height > top and width > left
    ]
    total = sum(rows * length for rows, length in passes)
    data = zlib.decompressobj().decompress(b"".join(bodies[b"IDAT"]), total)
    if len(data) < total:
        raise ValueError(f"{len(data)} of {total} bytes of pixels are there")
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 1 if interlace else 0)
    return PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data, 0)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# ---- WebP


def _is_lossy_webp(path: Path) -> bool:
    """Whether any picture of the file is a VP8 (lossy) and not a VP8L (lossless) one."""
    data = path.read_bytes()
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind == b"VP8 ":
            return True
        # A frame (ANMF) holds its picture after 16 bytes of its own.
        place += 8 + 16 if kind == b"ANMF" else 8 + length + length % 2
    return False
