"""Pixels: read, write, value range, resize, pad, tile. NumPy only."""

from perpixel.images.read import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageInfo,
    check_pixels,
    guarded,
    open_pillow,
    probe_image,
    read_image,
)
from perpixel.images.sizes import pad_to, resize_image, tile_grid
from perpixel.images.values import Normalisation, to_display
from perpixel.images.write import write_png

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageInfo",
    "Normalisation",
    "check_pixels",
    "guarded",
    "open_pillow",
    "pad_to",
    "probe_image",
    "read_image",
    "resize_image",
    "tile_grid",
    "to_display",
    "write_png",
]
