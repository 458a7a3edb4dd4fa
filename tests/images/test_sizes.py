"""Resize, pad and tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpixel.errors import InputError
from perpixel.images import pad_to, resize_image, tile_grid

SIDE = st.integers(1, 60)


# ---- resize_image


def test_halving_averages() -> None:
    image = np.array([[0, 10, 20, 30], [10, 20, 30, 40]], np.uint8)[..., None]
    assert resize_image(image, (1, 2))[..., 0].tolist() == [[10, 30]]


def test_doubling_is_linear_between_pixel_centres() -> None:
    image = np.array([[0, 100]], np.float32)[..., None]
    assert resize_image(image, (1, 4)).ravel().tolist() == [0, 25, 75, 100]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("size", [(5, 40), (30, 31), (1, 1), (20, 10)])
def test_any_channel_count_and_type(dtype: type, channels: int, size: tuple[int, int]) -> None:
    image = np.broadcast_to(np.arange(channels, dtype=dtype) * 20, (10, 20, channels))
    resized = resize_image(image, size)
    assert resized.shape == (*size, channels) and resized.dtype == dtype
    assert np.array_equal(resized, np.broadcast_to(image[0, 0], resized.shape))


def test_the_same_size_is_the_same_image() -> None:
    image = np.zeros((3, 4, 2), np.uint8)
    assert resize_image(image, (3, 4)) is image


# ---- pad_to


def test_the_mirror_does_not_repeat_the_edge() -> None:
    image = np.array([[1, 2, 3]])
    assert pad_to(image, (1, 5)).tolist() == [[1, 2, 3, 2, 1]]


def test_padding_beyond_the_image() -> None:
    assert pad_to(np.array([[1, 2, 3]]), (2, 9)).tolist() == [[1, 2, 3, 2, 1, 2, 3, 2, 1]] * 2
    assert pad_to(np.array([[7]]), (2, 3)).tolist() == [[7, 7, 7]] * 2


@given(SIDE, SIDE, SIDE, SIDE)
def test_padding_as_numpy_does_and_without_cropping(height: int, width: int, rows: int, cols: int) -> None:
    image = np.arange(height * width * 2).reshape(height, width, 2)
    padded = pad_to(image, (rows, cols))
    wider = [(0, max(0, want - side)) for side, want in ((height, rows), (width, cols))]
    assert np.array_equal(padded, np.pad(image, [*wider, (0, 0)], mode="reflect"))


# ---- tile_grid


def test_tiles_by_hand() -> None:
    tiles = tile_grid((4, 10), (4, 4), overlap=1)
    assert tiles == [(slice(0, 4), slice(start, start + 4)) for start in (0, 3, 6)]


def test_an_image_below_the_tile_is_one_tile() -> None:
    assert tile_grid((3, 5), (8, 8), overlap=2) == [(slice(0, 3), slice(0, 5))]


@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 59))
def test_tiles_cover_every_pixel_and_share_the_overlap(
    rows: int, cols: int, high: int, wide: int, overlap: int
) -> None:
    overlap = min(overlap, high - 1, wide - 1)
    tiles = tile_grid((rows, cols), (high, wide), overlap)
    covered = np.zeros((rows, cols), int)
    for row, col in tiles:
        assert (row.stop - row.start, col.stop - col.start) == (min(high, rows), min(wide, cols))
        covered[row, col] += 1
    assert covered.min() >= 1
    assert tiles == sorted(tiles, key=lambda tile: (tile[0].start, tile[1].start)) and len(set(map(str, tiles))) == len(
        tiles
    )
    for axis, side in ((0, rows), (1, cols)):
        starts = sorted({tile[axis].start for tile in tiles})
        stops = sorted({tile[axis].stop for tile in tiles})
        assert starts[0] == 0 and stops[-1] == side
        assert all(stop - start >= overlap for stop, start in zip(stops, starts[1:]))


@pytest.mark.parametrize(("tile", "overlap"), [((0, 4), 0), ((4, 4), 4), ((4, 8), 5), ((4, 4), -1)])
def test_impossible_tiles(tile: tuple[int, int], overlap: int) -> None:
    said = (
        rf"tile \({tile[0]}, {tile[1]}\) with overlap {overlap}: sides must be at least 1 and larger than the overlap"
    )
    with pytest.raises(InputError, match=said):
        tile_grid((10, 10), tile, overlap)
