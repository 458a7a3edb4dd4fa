"""What stands between damaged files and the caller: silence, limits, and one sentence for whatever a decoder throws."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import GifImagePlugin, Image, UnidentifiedImageError

from perpixel.errors import InputError

T = TypeVar("T")

# Twice a gigapixel: the largest single image that is read whole. Larger claims are taken for decompression bombs.
MAX_PIXELS = 2**31
# Bytes of pixels that one file may unfold to, whatever its header says.
MAX_BYTES = 8 * 2**30
# Claims below this are cheap enough to be left to the decoder.
SMALL_BYTES = 64 * 2**20
# Bytes of pixels per byte of file that a header may claim: deflate ends at 1032, LZW near 2730, and Zstandard in a
# TIFF reaches 32768 on empty maps. A header that claims more is damaged, or a bomb.
MAX_UNFOLDING = {"TIFF": 100_000}
OTHER_UNFOLDING = 4_000
SAID_LENGTH = 120
LOGGERS = ("tifffile", "nibabel.global", "pydicom", "pydicom.pixels")


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says, after EXIF rotation. `frames` is above 1 for stacks and animations."""

    height: int
    width: int
    channels: int
    dtype: str
    frames: int


class _Quiet:
    """Libraries are silent while any thread is inside: filters and loggers are global, so users are counted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.stack = ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.stack.enter_context(_silence())
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.stack.close()


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers], Image.MAX_IMAGE_PIXELS, GifImagePlugin.LOADING_STRATEGY
    for logger in loggers:
        logger.disabled = True
    # Pillow's own size limit is a warning at 89 megapixels: ours is checked from the header instead.
    Image.MAX_IMAGE_PIXELS = None
    # Later frames of an animation keep their palette indices as the first one does.
    GifImagePlugin.LOADING_STRATEGY = GifImagePlugin.LoadingStrategy.RGB_AFTER_DIFFERENT_PALETTE_ONLY
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        were_disabled, Image.MAX_IMAGE_PIXELS, GifImagePlugin.LOADING_STRATEGY = before
        for logger, was_disabled in zip(loggers, were_disabled):
            logger.disabled = was_disabled


_QUIET = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries say about odd files: the caller hears it as an InputError or not at all."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


def guarded(path: Path, read: Callable[[Path], T], *, what: str = "an image", takes_folders: bool = False) -> T:
    """Run a reader on `path`; whatever a library throws over a damaged file becomes one sentence.

    Args:
        what: "an image" or "a volume".
    Raises:
        InputError: missing, a folder (unless `takes_folders`), empty, unreadable or damaged.
    """
    noun = what.partition(" ")[2]
    try:
        if not (takes_folders and path.is_dir()):
            _check_file(path, what)
        with quiet():
            return read(path)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it: change its permissions") from error
    except MemoryError as error:
        raise InputError(f"{path}: unfolds to more memory than there is: cut the {noun} into parts first") from error
    except Exception as error:  # the decoders raise almost anything over damaged bytes
        if "imagecodecs" in str(error):
            raise InputError(f"{path}: its compression needs a codec: pip install 'perpixel[tiff]'") from error
        raise InputError(
            f"{path}: cannot be read as {what} ({_said(error)}): damaged, cut short or no {noun}: copy it again"
        ) from error


def _check_file(path: Path, what: str) -> None:
    if not path.exists():
        raise InputError(f"{path}: no such file: check the path")
    if path.is_dir():
        raise InputError(f"{path}: a folder, where {what} file is needed: give the file")
    if not path.is_file():
        raise InputError(f"{path}: a device or pipe, where {what} file is needed: give the file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: an empty file (0 bytes): copy it again from its source")


def _said(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own text is the path again
        return "no header of a PNG, JPEG, TIFF, BMP, GIF or WebP"
    text = "".join(character if character.isprintable() else " " for character in str(error))
    return " ".join(text.split())[:SAID_LENGTH] or type(error).__name__


def check_pixels(path: Path, info: ImageInfo, max_pixels: int = MAX_PIXELS, *, kind: str = "") -> None:
    """Refuse what would unfold to more than memory should hold, from the header alone.

    Args:
        kind: "TIFF" allows the compression ratios that TIFF reaches.
    Raises:
        InputError: no pixels, too many, or more than a file of its length can hold.
    """
    pixels = info.height * info.width
    shape = f"{info.height}x{info.width} pixels, {info.channels} channels"
    if pixels <= 0 or info.channels <= 0 or info.frames <= 0:
        raise InputError(f"{path}: its header claims {shape}: no image: copy it again from its source")
    size = pixels * info.channels * np.dtype(info.dtype).itemsize
    if pixels > max_pixels or size > MAX_BYTES:
        raise InputError(
            f"{path}: {shape} is over the limit of {max_pixels} pixels or {MAX_BYTES >> 30} GiB: "
            "cut the image into parts first, or copy it again if it is not so large"
        )
    claimed = size * info.frames if kind == "TIFF" else size
    length = path.stat().st_size
    if claimed > SMALL_BYTES and claimed > length * MAX_UNFOLDING.get(kind, OTHER_UNFOLDING):
        raise InputError(
            f"{path}: its header claims {shape}, {info.frames} frames, which a file of {length} bytes cannot hold: "
            "damaged or a decompression bomb: copy it again from its source"
        )


def check_frame(path: Path, info: ImageInfo, frame: int | None) -> None:
    """Refuse a frame that is not there, and a stack for which no frame was chosen.

    Raises:
        InputError: as said.
    """
    if frame is None and info.frames > 1:
        raise InputError(f"{path}: holds {info.frames} frames, and one is needed: give frame=0..{info.frames - 1}")
    if frame is not None and not 0 <= frame < info.frames:
        raise InputError(f"{path}: frame {frame} is not there: give frame=0..{info.frames - 1}")
