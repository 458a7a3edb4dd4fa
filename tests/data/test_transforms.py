"""The fused warp and colour map, by hand and by their properties."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.data.transforms import (
    NO_AUGMENTATION,
    Augmentation,
    Colour,
    Geometry,
    draw_colour,
    draw_geometry,
    recolour,
    warp,
)

IDENTITY = Colour(1.0, np.eye(1), np.zeros(1), 0.0)


def ramp(height: int, width: int, channels: int = 1) -> np.ndarray:
    values = np.arange(height * width * channels, dtype=np.uint16) % 251
    return values.reshape(height, width, channels).astype(np.uint8)


def test_without_augmentation_a_whole_image_is_itself() -> None:
    image = ramp(7, 9, 3)
    geometry = draw_geometry(np.random.default_rng(0), NO_AUGMENTATION, source=(7, 9), crop=(7, 9))
    assert np.array_equal(warp(image, geometry, (7, 9)), image)
    assert np.array_equal(warp(image[..., 0], geometry, (7, 9), nearest=True), image[..., 0])


def test_a_crop_is_a_part_of_the_image() -> None:
    image = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50, 1)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        geometry = draw_geometry(rng, NO_AUGMENTATION, source=(40, 50), crop=(8, 10))
        part = warp(image, geometry, (8, 10), nearest=True)[..., 0]
        row, col = divmod(int(part[0, 0]), 50)
        assert np.array_equal(part, image[row : row + 8, col : col + 10, 0])


@pytest.mark.parametrize("seed", range(6))
def test_image_and_label_map_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label_map = np.zeros((60, 80), np.uint8)
    label_map[20:40, 30:60] = 1
    image = (label_map * 200)[..., None]
    ranges = Augmentation(flip_vertical=True, quarter_turns=True, rotate_degrees=20, scale=(0.7, 1.5), elastic_px=4)
    geometry = draw_geometry(rng, ranges, source=(60, 80), crop=(48, 48))
    moved = warp(image, geometry, (48, 48))[..., 0] > 100
    assert (moved == (warp(label_map, geometry, (48, 48), nearest=True) == 1)).mean() > 0.97


def test_mirror_by_hand() -> None:
    image = ramp(2, 3)
    geometry = Geometry(np.array([[-1.0, 0, 2], [0, 1, 0]]), None)
    assert np.array_equal(warp(image, geometry, (2, 3)), image[:, ::-1])


def test_many_channels_warp_alike() -> None:
    image = ramp(12, 12, 7)
    geometry = draw_geometry(np.random.default_rng(1), Augmentation(rotate_degrees=30), source=(12, 12), crop=(9, 9))
    whole = warp(image, geometry, (9, 9))
    single = np.stack([warp(image[..., i], geometry, (9, 9)) for i in range(7)], axis=2)
    assert whole.shape == (9, 9, 7) and np.array_equal(whole, single)


def test_the_crop_contains_its_centre() -> None:
    label_map = np.zeros((100, 100), np.uint8)
    label_map[13, 88] = 1
    for seed in range(30):
        rng = np.random.default_rng(seed)
        geometry = draw_geometry(rng, NO_AUGMENTATION, source=(100, 100), crop=(20, 30), centre=(13, 88))
        assert warp(label_map, geometry, (20, 30), nearest=True).sum() == 1


def test_recolour_by_hand() -> None:
    image = np.array([[[0], [128], [255]]], np.uint8)
    result = recolour(
        image,
        IDENTITY,
        low=np.array([0.0]),
        high=np.array([255.0]),
        mean=np.array([0.5]),
        std=np.array([0.25]),
        rng=np.random.default_rng(0),
    )
    assert result.dtype == np.float32
    assert np.allclose(result[0, :, 0], [-2, (128 / 255 - 0.5) / 0.25, 2], atol=1e-5)


def test_contrast_turns_about_the_middle_of_the_range() -> None:
    colour = Colour(1.0, np.eye(1) * 0.5, np.array([0.25]), 0.0)  # contrast 0.5, no brightness
    result = recolour(
        np.array([[[0], [255]]], np.uint8),
        colour,
        low=np.zeros(1),
        high=np.full(1, 255.0),
        mean=np.zeros(1),
        std=np.ones(1),
        rng=np.random.default_rng(0),
    )
    assert np.allclose(result.ravel(), [0.25, 0.75], atol=1e-6)


def test_gamma_and_noise() -> None:
    colour = Colour(2.0, np.eye(1), np.zeros(1), 0.1)
    image = np.full((64, 64, 1), 128, np.uint8)
    result = recolour(
        image,
        colour,
        low=np.zeros(1),
        high=np.full(1, 255.0),
        mean=np.zeros(1),
        std=np.ones(1),
        rng=np.random.default_rng(0),
    )
    assert result.mean() == pytest.approx((128 / 255) ** 2, abs=0.01)
    assert result.std() == pytest.approx(0.1, rel=0.1)


def test_same_generator_same_draw() -> None:
    ranges = Augmentation(scale=(0.5, 2), rotate_degrees=10, contrast=0.3, brightness=0.2, saturation=0.4, noise=0.1)
    one, other = (draw_colour(np.random.default_rng(3), ranges, 3) for _ in range(2))
    assert np.array_equal(one.matrix, other.matrix) and one.noise == other.noise


def test_bright_and_dark_change_places() -> None:
    image = np.array([[[0], [51], [255]]], np.uint8)
    for share, expected in ((1.0, [1.0, 0.8, 0.0]), (0.0, [0.0, 0.2, 1.0])):
        rng = np.random.default_rng(0)
        colour = draw_colour(rng, Augmentation(invert=share), 1)
        unit = {"low": np.zeros(1), "high": np.full(1, 255.0), "mean": np.zeros(1), "std": np.ones(1)}
        assert recolour(image, colour, rng=rng, **unit)[0, :, 0] == pytest.approx(expected)
    drawn = [draw_colour(np.random.default_rng(seed), Augmentation(invert=0.3), 1).matrix[0, 0] for seed in range(200)]
    assert 40 < sum(factor < 0 for factor in drawn) < 80
