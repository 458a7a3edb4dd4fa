"""Reading masks: values as the file has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from perpixel.errors import InputError
from perpixel.labels import read_mask

VALUES = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)


def indexed(values: np.ndarray = VALUES) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 7, 8, 9])
    return image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif"])
def test_palettes_keep_their_indices(tmp_path: Path, suffix: str) -> None:
    indexed().save(tmp_path / f"a{suffix}")
    mask = read_mask(tmp_path / f"a{suffix}")
    assert mask.kind == "palette" and not mask.lossy
    assert mask.palette is not None and mask.palette.shape == (256, 3) and mask.palette.dtype == np.uint8
    # Writers may reorder a palette: colours are what must hold.
    assert mask.palette[mask.values].tolist() == np.asarray(indexed().convert("RGB")).tolist()
    if suffix != ".gif":
        assert mask.values.tolist() == VALUES.tolist()


def test_a_transparent_palette_entry_is_still_an_index(tmp_path: Path) -> None:
    indexed().save(tmp_path / "a.png", transparency=0)
    mask = read_mask(tmp_path / "a.png")
    assert (
        mask.values.tolist() == VALUES.tolist() and mask.palette is not None and mask.palette[3].tolist() == [7, 8, 9]
    )


def test_a_palette_tiff_keeps_its_indices(tmp_path: Path) -> None:
    colormap = np.repeat(np.arange(256, dtype=np.uint16)[::-1][None] << 8, 3, axis=0)
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="palette", colormap=colormap)
    mask = read_mask(tmp_path / "a.tif")
    assert mask.kind == "palette" and mask.values.tolist() == VALUES.tolist()
    assert mask.palette is not None and mask.palette[1].tolist() == [254, 254, 254]


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(VALUES > 1).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", VALUES > 1)
    for name in ("a.png", "a.tif"):
        mask = read_mask(tmp_path / name)
        assert mask.kind == "bool" and mask.values.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "int64", "float32", "float64"])
def test_number_types(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 1, 100], [3, 1, 0]]).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    mask = read_mask(tmp_path / "a.tif")
    assert mask.kind == "index" and mask.values.dtype.kind in "iu" and mask.values.tolist() == values.tolist()


@pytest.mark.parametrize("value", [2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1, -1, -(2**31)])
def test_32_bits_are_exact(tmp_path: Path, value: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[value, 0]]).astype(np.int32 if value < 2**31 else np.uint32))
    assert read_mask(tmp_path / "a.tif").values.tolist() == [[value, 0]]


def test_16_bit_png(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 40000]], np.uint16)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").values.tolist() == [[0, 40000]]


def test_colours_and_greys_in_disguise(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[..., 3] = 255
    colours[0, 1, :3] = 9
    Image.fromarray(colours).save(tmp_path / "grey.png")
    colours[1, 1, 0] = 200
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    grey, rgb = read_mask(tmp_path / "grey.png"), read_mask(tmp_path / "rgb.png")
    assert (grey.kind, grey.values.tolist()) == ("index", [[0, 9], [0, 0]])
    assert rgb.kind == "rgb" and rgb.values.shape == (2, 2, 3) and rgb.values[1, 1].tolist() == [200, 0, 0]


def test_what_is_lossy(tmp_path: Path) -> None:
    image = indexed().convert("RGB")
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "jpeg_in_disguise.png", format="JPEG")
    image.save(tmp_path / "lossy.webp")
    image.save(tmp_path / "exact.webp", lossless=True)
    found = {path.name: read_mask(path).lossy for path in tmp_path.iterdir()}
    assert found == {"a.jpg": True, "jpeg_in_disguise.png": True, "lossy.webp": True, "exact.webp": False}


def test_frames(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([VALUES, VALUES + 1]), photometric="minisblack")
    assert read_mask(tmp_path / "a.tif", frame=1).values.tolist() == (VALUES + 1).tolist()
    with pytest.raises(InputError, match=r"a\.tif: holds 2 frames, and one is needed: give frame=0\.\.1"):
        read_mask(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: frame 2 is not there"):
        read_mask(tmp_path / "a.tif", frame=2)


def test_frames_of_a_gif_keep_their_colours(tmp_path: Path) -> None:
    second = VALUES.copy()
    second[0, 0] = 3
    indexed().save(tmp_path / "a.gif", save_all=True, append_images=[indexed(second)], disposal=1, optimize=False)
    mask = read_mask(tmp_path / "a.gif", frame=1)
    colours = mask.values if mask.palette is None else mask.palette[mask.values]
    assert colours[0, 0].tolist() == [7, 8, 9] and colours[0, 1].tolist() == [255, 0, 0]


def test_a_tiff_in_which_0_is_white_keeps_its_values(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="miniswhite")
    assert read_mask(tmp_path / "a.tif").values.tolist() == VALUES.tolist()


# ---- what is refused


def test_fractions_and_nan(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 0.5, np.nan]], np.float32))
    with pytest.raises(
        InputError, match=r"a\.tif: 2 values such as 0\.5 are no whole numbers of 32 bits: save class ind"
    ):
        read_mask(tmp_path / "a.tif")


def test_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(
        InputError, match=r"a\.png: a mask with transparency has no clear values: save it without alpha"
    ):
        read_mask(tmp_path / "a.png")


def test_many_channels(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 5), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"a\.tif: 5 channels of uint16, and a mask has one value or one 8-bit colour"):
        read_mask(tmp_path / "a.tif")


def test_a_missing_mask(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: no such file: check the path"):
        read_mask(tmp_path / "a.png")
