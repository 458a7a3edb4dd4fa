"""What a file holds, upright, before palettes, alpha and number types are made uniform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perpixel.images.guard import ImageInfo

# Orientation of EXIF and TIFF 6.0 -> (transpose first, then flip rows, flip columns).
TURNS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Header:
    """What is known without decoding.

    Attributes:
        info: channels count the alpha channel, if there is one; a palette counts as its colours.
        alpha: the last channel is alpha, left out of the image where it is opaque everywhere.
    """

    info: ImageInfo
    alpha: bool = False


@dataclass(frozen=True)
class RawImage:
    """The values of a file.

    Attributes:
        values: (H, W, C) of the file's own type, native byte order; bool for 1 bit a pixel.
        palette: (N, 3) or, with transparency, (N, 4) uint8 colours that `values` (H, W, 1) index.
        alpha: the last channel is alpha.
        lossy: the compression may have changed values.
        white: largest value of the file where that matters: 3 and 15 in grey PNGs of 2 and 4 bits, and if `inverted`.
        inverted: 0 stands for white (TIFF), so that the values are the negative of the picture.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    alpha: bool = False
    lossy: bool = False
    white: int = 255
    inverted: bool = False


def turns_sides(orientation: int) -> bool:
    """Whether height and width change places."""
    return TURNS[orientation][0]


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> as it is to be seen."""
    transpose, flip_rows, flip_cols = TURNS[orientation]
    if transpose:
        values = values.swapaxes(0, 1)
    return values[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]


def known_orientation(value: object) -> int:
    """1 (as stored) for whatever is no orientation: a damaged tag is no reason to refuse a sound picture."""
    return value if isinstance(value, int) and value in TURNS else 1


def colours_of(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) indices -> (H, W, 3 or 4) uint8; indices beyond the palette are black, as viewers show them."""
    if indices.size and int(indices.max()) >= len(palette):
        padded = np.zeros((int(indices.max()) + 1, palette.shape[1]), np.uint8)
        padded[: len(palette)] = palette
        palette = padded
    return palette[indices]


def without_opaque_alpha(values: np.ndarray) -> np.ndarray:
    """(H, W, 2 or 4) with alpha last -> grey or RGB where alpha is full everywhere, else RGBA."""
    full = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
    if (values[..., -1] == full).all():
        return values[..., :-1]
    if values.shape[2] == 2:
        return values[..., [0, 0, 0, 1]]
    return values
