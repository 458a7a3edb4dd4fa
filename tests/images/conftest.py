"""One small file of every format and kind of pixel that the readers take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

HEIGHT, WIDTH = 9, 14


def grey() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def colour(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)


def deep(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH, channels), np.uint16)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def _pillow(image: Image.Image, **options: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


def _opencv(values: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(cv2.imencode(path.suffix, values)[1].tobytes())

    return write


def _tiff(values: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **options)


def _opaque() -> np.ndarray:
    return np.dstack([colour(), np.full((HEIGHT, WIDTH), 255, np.uint8)])


def _pillow_files() -> dict[str, Callable[[Path], None]]:
    pixels, palette = Image.fromarray(colour()), Image.fromarray(colour()).quantize(9)
    frames = [Image.fromarray(grey() + step).convert("RGB").quantize(7) for step in (0, 40)]
    return {
        "grey.png": _pillow(Image.fromarray(grey())),
        "grey16.png": _pillow(Image.fromarray(deep()[..., 0])),
        "bit.png": _pillow(Image.fromarray(grey() > 99)),
        "rgb.png": _pillow(pixels),
        "rgb_turned.png": _pillow(pixels, exif=exif(6)),
        "rgb16.png": _opencv(deep()),
        "rgba16.png": _opencv(deep(4)),
        "rgba.png": _pillow(Image.fromarray(colour(4))),
        "rgba_opaque.png": _pillow(Image.fromarray(_opaque())),
        "la.png": _pillow(Image.fromarray(colour(4)).convert("LA")),
        "la_opaque.png": _pillow(Image.fromarray(_opaque()).convert("LA")),
        "palette.png": _pillow(palette),
        "palette_clear.png": _pillow(palette, transparency=0),
        "palette_clear_unused.png": _pillow(palette, transparency=200),
        "rgb_trns.png": _pillow(pixels, transparency=(1, 2, 3)),
        "rgb.jpg": _pillow(pixels),
        "turned.jpg": _pillow(pixels, exif=exif(8)),
        "grey.jpeg": _pillow(Image.fromarray(grey())),
        "cmyk.jpg": _pillow(pixels.convert("CMYK")),
        "two.mpo.jpg": _pillow(pixels, format="MPO", save_all=True, append_images=[pixels]),
        "rgb.bmp": _pillow(pixels),
        "palette.bmp": _pillow(palette),
        "bit.bmp": _pillow(Image.fromarray(grey() > 99)),
        "one.gif": _pillow(palette),
        "grey.gif": _pillow(Image.fromarray(grey())),
        "clear.gif": _pillow(palette, transparency=0),
        "moving.gif": _pillow(frames[0], save_all=True, append_images=frames[1:]),
        "moving_clear.gif": _pillow(frames[0], save_all=True, append_images=frames[1:], transparency=0),
        "rgb.webp": _pillow(pixels),
        "turned.webp": _pillow(pixels, exif=exif(5)),
        "rgba.webp": _pillow(Image.fromarray(colour(4)), lossless=True),
        "moving.webp": _pillow(frames[0].convert("RGB"), save_all=True, append_images=[frames[1].convert("RGB")]),
    }


def _tiff_files() -> dict[str, Callable[[Path], None]]:
    stack = np.stack([grey(), grey() + 1, grey() + 2])
    many = np.random.default_rng(4).integers(0, 255, (2, 3, HEIGHT, WIDTH), np.uint8)
    seven = np.random.default_rng(5).integers(0, 255, (HEIGHT, WIDTH, 7), np.uint8)
    planes = np.ascontiguousarray(colour().transpose(2, 0, 1))
    colours = np.random.default_rng(6).integers(0, 65536, (3, 256), np.uint16)
    return {
        "grey.tif": _tiff(grey()),
        "grey16_big_endian.tif": _tiff(deep()[..., 0], byteorder=">"),
        "int16.tif": _tiff(grey().astype(np.int16) - 100),
        "uint32.tif": _tiff(grey().astype(np.uint32)),
        "float16.tif": _tiff(grey().astype(np.float16)),
        "float64.tif": _tiff(grey() / 7.0),
        "bit.tif": _tiff(grey() > 99),
        "bit_white_is_zero.tif": _tiff(grey() > 99, photometric="miniswhite"),
        "white_is_zero.tif": _tiff(grey(), photometric="miniswhite"),
        "rgb.tif": _tiff(colour(), photometric="rgb"),
        "rgb_turned.tif": _tiff(colour(), photometric="rgb", extratags=[(274, "H", 1, 6, True)]),
        "rgb16_zlib.tif": _tiff(deep(), photometric="rgb", compression="zlib", predictor=True),
        "rgb_tiled.tif": _tiff(colour(), photometric="rgb", compression="lzw", tile=(16, 16)),
        "planar.tif": _tiff(planes, photometric="rgb", planarconfig="separate"),
        "rgba.tif": _tiff(colour(4), photometric="rgb", extrasamples=["unassalpha"]),
        "rgba_opaque.tif": _tiff(_opaque(), photometric="rgb", extrasamples=["unassalpha"]),
        "four_no_alpha.tif": _tiff(_opaque(), photometric="rgb", extrasamples=["unspecified"]),
        "cmyk.tif": _tiff(colour(4), photometric="separated"),
        "palette.tif": _tiff(grey(), photometric="palette", colormap=colours),
        "seven.tif": _tiff(seven, photometric="minisblack", planarconfig="contig"),
        "channels_first.tif": _tiff(many[0], imagej=True, metadata={"axes": "CYX"}),
        "channels_first_ome.tif": _tiff(many[0], ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
        "pages.tif": _tiff(stack, photometric="minisblack"),
        "pages_zlib.tif": _tiff(stack, photometric="minisblack", compression="zlib"),
        "imagej_stack.tif": _tiff(stack, imagej=True, metadata={"axes": "ZYX"}),
        "imagej_channels.tif": _tiff(many, imagej=True, metadata={"axes": "ZCYX"}),
        "ome_channels.tif": _tiff(many, ome=True, metadata={"axes": "TCYX"}, photometric="minisblack"),
        "ome_frames_last.tif": _tiff(many, ome=True, metadata={"axes": "CZYX"}, photometric="minisblack"),
        "rgb_pages.tif": _tiff(np.stack([colour(), colour()[::-1]]), photometric="rgb"),
        "big.tif": _tiff(grey(), bigtiff=True),
    }


# Name -> function that writes it to a path.
FILES: dict[str, Callable[[Path], None]] = {**_pillow_files(), **_tiff_files()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `format_name` runs once for each of FILES."""
    if "format_name" in metafunc.fixturenames:
        metafunc.parametrize("format_name", sorted(FILES))


@pytest.fixture
def format_file(format_name: str, tmp_path: Path) -> Path:
    """A file of the kind `format_name`."""
    path = tmp_path / format_name
    FILES[format_name](path)
    return path
