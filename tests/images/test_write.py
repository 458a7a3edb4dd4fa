"""Writing PNGs: what is written is read back, and nothing is left half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perpixel.errors import InputError
from perpixel.images import read_image, write_png


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 4), np.uint8), ((3, 4), np.uint16), ((3, 4, 3), np.uint8), ((3, 4, 1), np.uint16)]
)
def test_round_trip(tmp_path: Path, shape: tuple[int, ...], dtype: type[np.integer]) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    path = write_png(tmp_path / "new" / "a.png", values)
    image = read_image(path)
    assert image.dtype == dtype
    assert np.array_equal(image, values.reshape(3, 4, -1))


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1].swapaxes(0, 1)
    assert np.array_equal(read_image(write_png(tmp_path / "a.png", values)), values)


def test_a_palette_makes_an_indexed_png(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    palette = np.array([[1, 2, 3], [40, 50, 60], [255, 0, 9]], np.uint8)
    path = write_png(tmp_path / "a.png", indices, palette=palette)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), indices)
    assert np.array_equal(read_image(path), palette[indices])


def test_what_no_png_holds_is_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot write float32 as PNG"):
        write_png(tmp_path / "a.png", np.zeros((2, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be written, a (part of the path is a file|file stands where)"):
        write_png(tmp_path / "file" / "a.png", np.zeros((2, 2), np.uint8))
