"""Pixels: read, write, value range, resize, pad, tile. NumPy only."""

from perpixel.images.guard import MAX_PIXELS, ImageInfo, check_pixels, guarded
from perpixel.images.pillow_files import open_pillow
from perpixel.images.raw import RawImage
from perpixel.images.read import IMAGE_SUFFIXES, probe_image, read_image, read_raw
from perpixel.images.sizes import pad_to, resize_image, tile_grid
from perpixel.images.values import Normalisation, to_display
from perpixel.images.write import write_png

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageInfo",
    "Normalisation",
    "RawImage",
    "check_pixels",
    "guarded",
    "open_pillow",
    "pad_to",
    "probe_image",
    "read_image",
    "read_raw",
    "resize_image",
    "tile_grid",
    "to_display",
    "write_png",
]
