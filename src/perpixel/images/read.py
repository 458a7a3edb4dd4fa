"""Image files -> arrays: EXIF orientation honoured, 16-bit and float kept, sizes checked before anything is decoded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps

from perpixel.errors import InputError

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}) | TIFF_SUFFIXES
# Twice a gigapixel: the largest single image that is read whole. Larger claims are taken for decompression bombs.
MAX_PIXELS = 2**31
# Bytes of pixels that one file may unfold to, whatever its header says.
MAX_BYTES = 8 * 2**30

# Pages of a stack are frames; other axes that hold more than one value are channels.
FRAME_AXES = "IZTQR"
EXIF_ORIENTATION = 0x0112
TRANSPOSED = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says, after EXIF rotation. `frames` is above 1 for stacks and animations."""

    height: int
    width: int
    channels: int
    dtype: str
    frames: int


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what libraries say about odd files: the caller hears it as an InputError or not at all."""
    logger = logging.getLogger("tifffile")
    was = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was


def guarded(path: Path, read: Callable[[Path], Any]) -> Any:
    """Run a reader on `path`; whatever a library throws over a damaged file becomes one sentence."""
    if not path.exists():
        raise InputError(f"{path}: no such file: check the path")
    if path.is_dir():
        raise InputError(f"{path}: a folder, where an image file is needed: give the file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: an empty file (0 bytes): copy it again from its source")
    try:
        with _quiet():
            return read(path)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it: change its permissions") from error
    except MemoryError as error:
        raise InputError(f"{path}: its header asks for more memory than there is: copy it again from its source") from error
    except Exception as error:  # the decoders raise almost anything over damaged bytes
        if "imagecodecs" in str(error):
            raise InputError(f"{path}: compressed in a way that needs a codec: pip install 'perpixel[tiff]'") from error
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({said}): damaged, cut short or not an image") from error


def probe_image(path: str | Path) -> ImageInfo:
    """Size, channels, dtype and frames from the header alone.

    Raises:
        InputError: missing, damaged, or not an image.
    """
    source = Path(path)
    return guarded(source, _probe_tiff if source.suffix.lower() in TIFF_SUFFIXES else _probe_pillow)


def read_image(path: str | Path, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one image.

    Grey images have one channel; palettes become RGB, 1-bit becomes 0 and 255, alpha that is 255 everywhere is dropped.

    Args:
        frame: index into a stack or animation; None only where there is one frame.
        max_pixels: largest height * width that is decoded.
    Returns:
        (H, W, C) uint8, uint16 or float32, writable, C order. Other integer types and float64 become float32.
    Raises:
        InputError: missing, damaged, too large, a frame that is not there, NaN or infinite values.
    """
    source = Path(path)
    info = probe_image(source)
    check_pixels(source, info, max_pixels)
    _check_frame(source, info, frame)
    is_tiff = source.suffix.lower() in TIFF_SUFFIXES

    def read(file: Path) -> np.ndarray:
        return _read_tiff(file, frame) if is_tiff else _read_pillow(file, frame or 0)

    return _finish(source, guarded(source, read))


def check_pixels(path: Path, info: ImageInfo, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse what would unfold to more than memory should hold, from the header alone.

    Raises:
        InputError: no pixels, or too many.
    """
    pixels = info.height * info.width
    if pixels == 0 or info.channels == 0:
        raise InputError(f"{path}: its header gives {info.height}x{info.width} pixels, {info.channels} channels: no image")
    size = pixels * info.channels * np.dtype(info.dtype).itemsize
    if pixels > max_pixels or size > MAX_BYTES:
        raise InputError(
            f"{path}: {info.height}x{info.width} pixels, {info.channels} channels is over the limit of {max_pixels} pixels or "
            f"{MAX_BYTES >> 30} GiB: a decompression bomb, or an image to cut into parts first"
        )


def _check_frame(path: Path, info: ImageInfo, frame: int | None) -> None:
    if frame is None and info.frames > 1:
        raise InputError(f"{path}: holds {info.frames} frames, and one is needed: give frame=0..{info.frames - 1}")
    if frame is not None and not 0 <= frame < info.frames:
        raise InputError(f"{path}: frame {frame} is not there: it holds frames 0..{info.frames - 1}")


def _finish(path: Path, image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore"):
            image = image.astype(np.float32)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise InputError(f"{path}: {bad} values are NaN or infinite: replace them by numbers")
    if image.shape[2] == 4 and image.dtype == np.uint8 and (image[..., 3] == 255).all():
        image = image[..., :3]
    return np.array(image, order="C", copy=not (image.flags.c_contiguous and image.flags.writeable))


# ---- Pillow: PNG, JPEG, BMP, GIF, WebP


def open_pillow(path: Path) -> Image.Image:
    """Open without Pillow's own size limit (a warning at 89 megapixels): ours is checked from the header instead."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(path, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP", "MPO"))
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _frames(image: Image.Image) -> int:
    # A multi-picture JPEG (MPO) carries previews of the same photograph, not frames.
    return 1 if image.format in ("MPO", "JPEG", "PNG") else getattr(image, "n_frames", 1)


def _probe_pillow(path: Path) -> ImageInfo:
    with open_pillow(path) as image:
        width, height = image.size
        if image.getexif().get(EXIF_ORIENTATION) in TRANSPOSED:
            width, height = height, width
        deep = image.mode.startswith("I") or (path.suffix.lower() == ".png" and _png_depth(path) == 16)
        channels = {"1": 1, "L": 1, "I": 1, "F": 1, "LA": 4, "RGBA": 4, "PA": 4}.get(image.mode.partition(";")[0], 3)
        return ImageInfo(height, width, channels, "uint16" if deep else "uint8", _frames(image))


def _png_depth(path: Path) -> int:
    with open(path, "rb") as file:
        header = file.read(26)
    return header[24] if header[:8] == b"\x89PNG\r\n\x1a\n" and len(header) > 24 else 8


def _read_pillow(path: Path, frame: int) -> np.ndarray:
    with open_pillow(path) as image:
        if image.format == "PNG" and _png_depth(path) == 16 and image.mode in ("RGB", "RGBA", "LA"):
            return _read_deep_png(path)
        if frame:
            image.seek(frame)
        upright = ImageOps.exif_transpose(image)
        return np.asarray(_plain_mode(upright))


def _plain_mode(image: Image.Image) -> Image.Image | np.ndarray:
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    has_alpha = image.mode in ("LA", "PA") or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _read_deep_png(path: Path) -> np.ndarray:
    # Pillow cuts 16-bit colour to 8 bits; OpenCV keeps it.
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("16-bit PNG cannot be decoded")
    if image.ndim == 2:
        return image
    order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(image, order)


# ---- tifffile


def _probe_tiff(path: Path) -> ImageInfo:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        roles = _roles(series.axes, series.shape)
        sizes = dict(zip(("frames", "channels"), (1, 1)))
        for role, side in zip(roles, series.shape):
            if role in sizes:
                sizes[role] *= side
        height, width = _side(series, "Y"), _side(series, "X")
        if series.axes.endswith("YXS") and file.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE:
            sizes["channels"] = 3
        elif file.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE:
            sizes["channels"] = 3
        dtype = np.dtype(series.dtype)
        kept = {"uint8": "uint8", "uint16": "uint16", "bool": "uint8"}.get(dtype.name, "float32")
        return ImageInfo(height, width, sizes["channels"], kept, sizes["frames"])


def _side(series: tifffile.TiffPageSeries, axis: str) -> int:
    place = series.axes.find(axis)
    if place < 0:
        raise ValueError(f"no {axis} axis among {series.axes}")
    return int(series.shape[place])


def _roles(axes: str, shape: tuple[int, ...]) -> list[str]:
    return [
        "space" if axis in "YX" else "frames" if axis in FRAME_AXES and side > 1 else "channels"
        for axis, side in zip(axes, shape)
    ]


def _read_tiff(path: Path, frame: int | None) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        roles = _roles(series.axes, series.shape)
        pages_are_frames = roles.count("frames") == 1 and roles[0] == "frames" and len(series.pages) == series.shape[0]
        if frame is not None and pages_are_frames:
            data = np.asarray(series.pages[frame].asarray())
            axes, roles = series.axes[1:], roles[1:]
            if data.ndim != len(axes):
                data = data.reshape(series.shape[1:])
        else:
            data, axes = np.asarray(series.asarray()), series.axes
        order = [i for i, role in enumerate(roles) if role == "frames"]
        order += [axes.index("Y"), axes.index("X")] + [i for i, role in enumerate(roles) if role == "channels"]
        frames = [data.shape[i] for i, role in enumerate(roles) if role == "frames"]
        height, width = data.shape[axes.index("Y")], data.shape[axes.index("X")]
        stack = data.transpose(order).reshape(int(np.prod(frames, dtype=int)), height, width, -1)
        image = stack[frame if frame is not None and not pages_are_frames else 0]
        return _tiff_colours(file.pages[0], image)


def _tiff_colours(page: Any, image: np.ndarray) -> np.ndarray:
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None and image.shape[2] == 1:
        return (page.colormap.T[image[..., 0]] >> 8).astype(np.uint8)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and image.dtype == np.uint8:
        return 255 - image
    return image
