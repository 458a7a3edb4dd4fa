"""Mask files -> raw values, before any class table is laid over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.images import RawImage, read_raw
from perpixel.images.raw import colours_of, without_opaque_alpha

SMALLEST, LARGEST = -(2**31), 2**32 - 1


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

    Colour masks whose three channels are equal are read as grey; alpha is dropped where it is opaque everywhere.
    Grey values of 2 and 4 bits a pixel are kept as stored, 0..3 and 0..15; so are those of a TIFF in which 0 is white.

    Raises:
        InputError: missing, damaged, a stack without `frame`, transparency, several channels that are no colours, or
            values that are not whole numbers of 32 bits.
    """
    source = Path(path)
    raw = read_raw(source, frame=frame)
    if raw.palette is not None:
        return _of_palette(raw, raw.palette)
    if raw.values.dtype == bool and raw.values.shape[2] == 1:
        return RawMask(np.ascontiguousarray(raw.values[..., 0]).astype(np.uint8), kind="bool")
    values = without_opaque_alpha(raw.values) if raw.alpha else raw.values
    if raw.alpha and values.shape[2] == 4:
        raise InputError(f"{source}: a mask with transparency has no clear values: save it without alpha")
    if values.shape[2] == 3 and values.dtype == np.uint8:
        return _of_colours(np.ascontiguousarray(values), raw.lossy)
    if values.shape[2] == 3 and (values[..., :1] == values).all():
        values = values[..., :1]
    if values.shape[2] != 1:
        what = f"{values.shape[2]} channels of {values.dtype}"
        raise InputError(f"{source}: {what}, and a mask has one value or one 8-bit colour a pixel: save it so")
    return RawMask(np.ascontiguousarray(whole_numbers(source, values[..., 0])), None, raw.lossy)


def _of_palette(raw: RawImage, palette: np.ndarray) -> RawMask:
    indices = np.ascontiguousarray(raw.values[..., 0])
    if len(palette) > 256:  # a 16-bit palette holds colours, not classes
        return _of_colours(colours_of(indices, palette[:, :3]), raw.lossy)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette[:, :3]
    if (colours == np.arange(256)[:, None]).all():  # the greys of a GIF: index and value are the same
        return RawMask(indices, None, raw.lossy)
    return RawMask(indices, colours, raw.lossy, "palette")


def _of_colours(colours: np.ndarray, lossy: bool) -> RawMask:
    if (colours[..., :1] == colours).all():
        return RawMask(np.ascontiguousarray(colours[..., 0]), None, lossy)
    return RawMask(colours, None, lossy, "rgb")


def whole_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """Integers as they are, floats that are whole numbers as int32 or int64."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # signalling NaN
            values = values.astype(np.float64)
        fits = np.isfinite(values) & (values >= SMALLEST) & (values <= LARGEST)
        whole = np.where(fits, values, 0).astype(np.int64)
        _refuse(path, values, ~fits | (whole != values))
    else:
        whole = values
    _refuse(path, values, (whole < SMALLEST) | (whole > LARGEST))
    is_small = int(whole.min()) >= SMALLEST and int(whole.max()) < 2**31
    return whole.astype(np.int32 if is_small else np.int64)


def _refuse(path: Path, values: np.ndarray, bad: np.ndarray) -> None:
    if bad.any():
        example = values[bad][0]
        raise InputError(
            f"{path}: {int(bad.sum())} values such as {example:g} are no whole numbers of 32 bits: save class indices"
        )
