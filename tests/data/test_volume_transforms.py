"""Random changes of volumes: what is drawn stays within its range, and image and label map move together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perpixel.data.volume_transforms import (
    MOST_ELASTIC,
    NNUNET_AUGMENTATION,
    NO_VOLUME_AUGMENTATION,
    VolumeAugmentation,
    change_values,
    draw_volume_geometry,
    draw_volume_values,
    turn_matrix,
)
from perpixel.data.volume_warp import CELLS, spline_weights, warp_volume

SHAPE = (30, 36, 32)
ALWAYS = replace(
    NNUNET_AUGMENTATION,
    elastic=0.15,
    **{name: 1.0 for name in vars(NNUNET_AUGMENTATION) if name.endswith("_chance")},
)


def ball(radius: float = 6) -> np.ndarray:
    distance = np.indices(SHAPE) - np.reshape((14, 20, 15), (3, 1, 1, 1))
    return ((distance**2).sum(0) <= radius**2).astype(np.uint8)


def test_without_augmentation_a_whole_volume_is_itself() -> None:
    label_map = ball()
    image = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        geometry = draw_volume_geometry(rng, NO_VOLUME_AUGMENTATION, source=SHAPE, patch=SHAPE)
        moved, target = warp_volume(image, label_map, geometry, SHAPE)
        values = draw_volume_values(rng, NO_VOLUME_AUGMENTATION, 2)
        np.testing.assert_array_equal(change_values(moved, values, rng=rng), image)
        np.testing.assert_array_equal(target, label_map)


def test_a_patch_without_changes_is_a_part_of_the_volume() -> None:
    label_map = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    corners = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        geometry = draw_volume_geometry(rng, NO_VOLUME_AUGMENTATION, source=SHAPE, patch=(8, 30, 31))
        assert geometry.is_cut
        _, target = warp_volume(label_map[None].astype(np.float32), label_map, geometry, (8, 30, 31), outside_label=-1)
        z, y, x = np.unravel_index(target[0, 0, 0], SHAPE)
        np.testing.assert_array_equal(target, label_map[z : z + 8, y : y + 30, x : x + 31])
        corners.add((int(z), int(y), int(x)))
    assert {corner[0] for corner in corners} >= {0, 22} and {corner[2] for corner in corners} == {0, 1}


@pytest.mark.parametrize("seed", range(8))
def test_image_and_label_map_move_together(seed: int) -> None:
    label_map = ball()
    image = label_map[None].astype(np.float32)
    rng = np.random.default_rng(seed)
    geometry = draw_volume_geometry(rng, ALWAYS, source=SHAPE, patch=(40, 40, 40), centre=(14, 20, 15))
    moved, target = warp_volume(image, label_map, geometry, (40, 40, 40))
    assert set(np.unique(target)) == {0, 1}
    np.testing.assert_array_equal(moved[0] > 0.5, target == 1)  # both linear: the same surface
    weights, places = moved[0] / moved.sum(), np.indices(target.shape)
    np.testing.assert_allclose(
        (places * weights).sum((1, 2, 3)), [each[target == 1].mean() for each in places], atol=0.2
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_centre_is_one_of_the_patch_s_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = [(0, 0, 0), (29, 35, 31), (29, 0, 16)]
    centre = corners[seed % 3] if seed < 12 else tuple(rng.integers(0, SHAPE).tolist())
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[centre] = 1
    for ranges in (NO_VOLUME_AUGMENTATION, VolumeAugmentation(), ALWAYS):
        geometry = draw_volume_geometry(rng, ranges, source=SHAPE, patch=(12, 9, 14), centre=centre)
        _, target = warp_volume(np.zeros((1, *SHAPE), np.float32), label_map, geometry, (12, 9, 14))
        assert (target == 1).any()
        assert geometry.is_cut == (ranges is not ALWAYS)


def test_a_smaller_volume_lies_whole_inside_its_patch() -> None:
    label_map = np.ones((3, 4, 2), np.uint8)
    places = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        geometry = draw_volume_geometry(rng, VolumeAugmentation(), source=(3, 4, 2), patch=(8, 4, 9))
        _, target = warp_volume(np.zeros((1, 3, 4, 2), np.float32), label_map, geometry, (8, 4, 9), outside_label=255)
        assert (target == 1).sum() == label_map.size and (target == 255).sum() == 8 * 4 * 9 - label_map.size
        places.add(int(np.flatnonzero((target == 1).any((1, 2)))[0]))
    assert len(places) > 2


def test_nothing_folds_and_displacements_stay_within_their_bound() -> None:
    patch = (24, 40, 30)
    ranges = replace(NO_VOLUME_AUGMENTATION, elastic=5.0, elastic_chance=1.0)  # far too wild: clipped
    field = draw_volume_geometry(np.random.default_rng(0), ranges, source=(50, 50, 50), patch=patch).field
    assert field is not None
    moved = np.einsum("czyx,dz,hy,wx->cdhw", field, *(spline_weights(side) for side in patch))
    for axis, side in enumerate(patch):
        assert 0.5 < np.abs(moved[axis]).max() <= MOST_ELASTIC * (side - 1) / CELLS * (1 + 1e-6)
    jacobian = np.stack([np.stack(np.gradient(moved[axis])) for axis in range(3)]) + np.eye(3)[:, :, None, None, None]
    assert np.linalg.det(jacobian.transpose(2, 3, 4, 0, 1)).min() > 0


def test_anisotropic_volumes_are_turned_in_their_planes_only() -> None:
    for coarse, spacing in enumerate([(5.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.2, 5.0)]):
        for seed in range(5):
            geometry = draw_volume_geometry(
                np.random.default_rng(seed), ALWAYS, source=SHAPE, patch=(8, 8, 8), spacing=spacing, centre=(9, 9, 9)
            )
            others = [axis for axis in range(3) if axis != coarse]
            assert abs(geometry.matrix[coarse, coarse]) == 1
            assert (geometry.matrix[coarse, others] == 0).all() and (geometry.matrix[others, coarse] == 0).all()
            assert geometry.matrix[coarse, 3] == np.rint(geometry.matrix[coarse, 3])  # no slice is interpolated
            assert geometry.field is not None and (geometry.field[coarse] == 0).all()
            assert np.abs(geometry.field[others]).min() > 0


def test_turns_are_rigid_in_millimetres() -> None:
    spacing = np.array([2.0, 1.0, 0.8])
    ranges = replace(NO_VOLUME_AUGMENTATION, rotate_degrees=40.0, rotate_chance=1.0)
    geometry = draw_volume_geometry(
        np.random.default_rng(1), ranges, source=SHAPE, patch=(8, 8, 8), spacing=(2.0, 1.0, 0.8)
    )
    in_mm = geometry.matrix[:, :3] * spacing[:, None] / spacing
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert np.abs(in_mm - np.eye(3)).max() > 0.1
    np.testing.assert_allclose(turn_matrix((90, 0, 0)) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_shrunken_patches_show_as_much() -> None:
    label_map = ball()
    geometry = draw_volume_geometry(
        np.random.default_rng(0), NO_VOLUME_AUGMENTATION, source=SHAPE, patch=(15, 18, 16), shrink=2
    )
    _, target = warp_volume(label_map[None].astype(np.float32), label_map, geometry, (15, 18, 16))
    assert target.sum() == pytest.approx(label_map.sum() / 8, rel=0.1)


def test_values_by_hand() -> None:
    image = np.array([0, 1, 2, 5], np.float32).reshape(1, 1, 1, 4)
    plain = draw_volume_values(np.random.default_rng(0), NO_VOLUME_AUGMENTATION, 1)
    rng = np.random.default_rng(0)

    def changed(**values: object) -> list[float]:
        return change_values(image.copy(), replace(plain, **values), rng=rng).ravel().tolist()

    assert changed(brightness=np.array([1.5])) == [0, 1.5, 3, 7.5]
    assert changed(contrast=np.array([0.5])) == [1, 1.5, 2, 3.5]
    assert changed(contrast=np.array([1.5])) == [0, 0.5, 2, 5]  # -1 and 6.5 are kept within 0..5
    squares = np.array([0, 1, 4, 25]) / 25 * 5
    expected = (squares - squares.mean()) / squares.std() * image.std() + 2
    np.testing.assert_allclose(changed(gamma=np.array([2.0])), expected, atol=1e-5)
    squares = 5 - np.array([25, 16, 9, 0]) / 25 * 5
    expected = (squares - squares.mean()) / squares.std() * image.std() + 2
    np.testing.assert_allclose(changed(inverted_gamma=np.array([2.0])), expected, atol=1e-5)
    flat = np.full((1, 2, 2, 2), 3, np.float32)
    assert (change_values(flat, replace(plain, gamma=np.array([2.0])), rng=rng) == 3).all()


def test_noise_is_as_wide_as_drawn_and_each_channel_its_own() -> None:
    ranges = replace(NO_VOLUME_AUGMENTATION, noise=0.4, noise_chance=1.0)
    rng = np.random.default_rng(3)
    values = draw_volume_values(rng, ranges, 2)
    changed = change_values(np.zeros((2, 20, 20, 20), np.float32), values, rng=rng)
    assert 0 < values.noise < 0.4
    np.testing.assert_allclose(changed.std((1, 2, 3)), values.noise, rtol=0.05)
    assert not np.array_equal(changed[0], changed[1])


def test_draws_of_values_stay_within_their_ranges_and_chances() -> None:
    drawn = [draw_volume_values(np.random.default_rng(seed), NNUNET_AUGMENTATION, 4) for seed in range(400)]
    bounds = {
        "blur": (0.5, 1.0, 0.0, 0.1),
        "resolution": (0.5, 1.0, 1.0, 0.125),
        "brightness": (0.75, 1.25, 1.0, 0.15),
        "contrast": (0.75, 1.25, 1.0, 0.15),
        "gamma": (0.7, 1.5, 1.0, 0.3),
        "inverted_gamma": (0.7, 1.5, 1.0, 0.1),
    }
    for name, (low, high, none, chance) in bounds.items():
        numbers = np.concatenate([getattr(each, name) for each in drawn])
        changed = numbers[numbers != none]
        assert low <= changed.min() and changed.max() <= high, name
        assert len(changed) / len(numbers) == pytest.approx(chance, abs=0.04), name
    assert np.mean([each.noise > 0 for each in drawn]) == pytest.approx(0.1, abs=0.05)
