"""Warps of volumes against NumPy's own turns and flips, and the compiled loops against their twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perpixel.data import volume_taps, volume_warp
from perpixel.data.volume_taps import smooth_volume
from perpixel.data.volume_transforms import turn_matrix
from perpixel.data.volume_warp import CELLS, CONTROLS, VolumeGeometry, spline_weights, warp_volume


def scene(shape: tuple[int, int, int] = (9, 11, 10), channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(channels, *shape)).astype(np.float32), rng.integers(0, 5, shape).astype(np.uint8)


def about_middle(linear: np.ndarray, source: tuple[int, ...], patch: tuple[int, ...]) -> VolumeGeometry:
    start = (np.array(source) - 1) / 2 - linear @ ((np.array(patch) - 1) / 2)
    return VolumeGeometry(np.concatenate([linear, start[:, None]], axis=1))


def bent(size: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-size, size, (3, CONTROLS, CONTROLS, CONTROLS)).astype(np.float32)


def test_the_identity_gives_the_volume() -> None:
    image, label_map = scene()
    geometry = VolumeGeometry(np.eye(4)[:3])
    assert geometry.is_cut
    moved, target = warp_volume(image, label_map, geometry, (9, 11, 10))
    np.testing.assert_array_equal(moved, image)
    np.testing.assert_array_equal(target, label_map)
    # The same through the loops, where no displacement at all is a field.
    still = VolumeGeometry(np.eye(4)[:3], np.zeros((3, CONTROLS, CONTROLS, CONTROLS), np.float32))
    assert not still.is_cut
    moved, target = warp_volume(image, label_map, still, (9, 11, 10))
    np.testing.assert_array_equal(moved, image)
    np.testing.assert_array_equal(target, label_map)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_numpy_s(axis: int, turns: int) -> None:
    image, label_map = scene()
    plane = tuple(each for each in range(3) if each != axis)
    expected = np.rot90(label_map, -turns, plane)
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 90.0 * turns
    geometry = about_middle(turn_matrix(degrees), label_map.shape, expected.shape)
    depth, height, width = expected.shape
    moved, target = warp_volume(image, label_map, geometry, (depth, height, width))
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_allclose(moved, np.rot90(image, -turns, tuple(each + 1 for each in plane)), atol=1e-5)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_mirrors_are_numpy_s(axes: tuple[int, ...]) -> None:
    image, label_map = scene()
    linear = np.diag([-1.0 if axis in axes else 1.0 for axis in range(3)])
    geometry = about_middle(linear, label_map.shape, label_map.shape)
    assert geometry.is_cut
    moved, target = warp_volume(image, label_map, geometry, (9, 11, 10))
    np.testing.assert_array_equal(target, np.flip(label_map, axes))
    np.testing.assert_array_equal(moved, np.flip(image, tuple(axis + 1 for axis in axes)))


@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("start", [(-2, 3, 0), (4, -1, 8), (30, 0, 0), (-30, 0, 0), (0, 0, 10)])
def test_a_cut_over_the_border_is_what_the_loops_give(start: tuple[int, int, int], mirror: float) -> None:
    image, label_map = scene()
    matrix = np.concatenate([np.diag([mirror, 1.0, 1.0]), np.array(start, float)[:, None]], axis=1)
    cut = warp_volume(image, label_map, VolumeGeometry(matrix), (6, 5, 7), outside_label=7)
    field = np.zeros((3, CONTROLS, CONTROLS, CONTROLS), np.float32)
    looped = warp_volume(image, label_map, VolumeGeometry(matrix, field), (6, 5, 7), outside_label=7)
    np.testing.assert_array_equal(cut[0], looped[0])
    np.testing.assert_array_equal(cut[1], looped[1])


def test_outside_by_hand() -> None:
    image, label_map = np.full((1, 2, 2, 2), 3, np.float32), np.ones((2, 2, 2), np.uint8)
    matrix = np.concatenate([np.eye(3), np.array([[0.0], [0.0], [-1.5]])], axis=1)
    moved, target = warp_volume(image, label_map, VolumeGeometry(matrix), (1, 1, 5), outside_label=9)
    # Places -1.5, -0.5, 0.5, 1.5, 2.5 along the columns: halves of the outside at both borders.
    np.testing.assert_allclose(moved.ravel(), [0, 1.5, 3, 1.5, 0])
    assert target.ravel().tolist() == [9, 1, 1, 1, 9]  # at a tie the smaller value


def test_labels_are_the_largest_linear_share() -> None:
    label_map = np.array([[[4, 2, 2, 7]]], np.int32)
    for offset, value in ((0.2, 4), (0.5, 2), (0.8, 2), (1.5, 2), (2.4, 2), (2.6, 7)):
        matrix = np.concatenate([np.eye(3), np.array([[0.0], [0.0], [offset]])], axis=1)
        _, target = warp_volume(np.zeros((1, 1, 1, 4), np.float32), label_map, VolumeGeometry(matrix), (1, 1, 1))
        assert target.item() == value


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_numpy_gives_the_same_bits(seed: int, is_bent: bool) -> None:
    rng = np.random.default_rng(seed)
    image, label_map = scene((8, 7, 9))
    matrix = np.concatenate([rng.normal(size=(3, 3)), rng.uniform(-3, 9, (3, 1))], axis=1)
    geometry = VolumeGeometry(matrix, bent(1.5, seed) if is_bent else None)
    ours = warp_volume(image, label_map, geometry, (6, 8, 5), outside_label=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volume_warp, "_compiled_loops", lambda: None)
        patch.setattr(volume_warp, "GROUP_VOXELS", 90)
        plain = warp_volume(image, label_map, geometry, (6, 8, 5), outside_label=3)
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_array_equal(ours[1], plain[1])


def test_torch_agrees() -> None:
    import torch
    import torch.nn.functional as F

    image, label_map = scene((12, 12, 12), 1)
    geometry = about_middle(turn_matrix((20, -15, 40)) * 0.6, (12, 12, 12), (12, 12, 12))
    moved, _ = warp_volume(image, label_map, geometry, (12, 12, 12))
    theta = np.concatenate([geometry.matrix[::-1, 2::-1], np.zeros((3, 1))], axis=1).astype(np.float32)
    grid = F.affine_grid(torch.from_numpy(theta)[None], [1, 1, 12, 12, 12], align_corners=False)
    expected = F.grid_sample(torch.from_numpy(image)[None], grid, align_corners=False)[0].numpy()
    np.testing.assert_allclose(moved, expected, atol=1e-4)


def test_displacements_are_means_of_their_control_points() -> None:
    for side in (1, 2, 17, 128):
        weights = spline_weights(side)
        assert weights.shape == (side, CONTROLS) and (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    # A field that rises by one cell from control point to control point moves a place by its own place: x -> 2x.
    patch = (7, 10, 13)
    field = np.zeros((3, CONTROLS, CONTROLS, CONTROLS), np.float32)
    field[2] = (np.arange(CONTROLS) - 1) * 12 / CELLS
    geometry = VolumeGeometry(np.eye(4)[:3], field)
    for place in ((0, 0, 0), (3, 4, 5), (6, 9, 12)):
        np.testing.assert_allclose(geometry.displacement(patch, np.array(place)), [0, 0, place[2]], atol=1e-5)
    image = np.tile(np.arange(30, dtype=np.float32), (1, 8, 11, 1))
    moved, _ = warp_volume(image, np.zeros((8, 11, 30), np.uint8), geometry, patch)
    np.testing.assert_allclose(moved[0, 3, 4], 2 * np.arange(13), atol=1e-4)


def test_smoothing_by_hand() -> None:
    volume = np.zeros((1, 1, 9), np.float32)
    volume[0, 0, 4] = 1
    weights = np.exp(-0.5 * (np.arange(-4, 5) / 0.8) ** 2)
    np.testing.assert_allclose(smooth_volume(volume, blur=0.8)[0, 0], weights / weights.sum(), atol=1e-5)
    # Half of four samples: means of pairs at 0.5 and 2.5, linear between, flat beyond.
    ramp = np.array([0, 2, 4, 10], np.float32).reshape(4, 1, 1)
    np.testing.assert_allclose(smooth_volume(ramp, resolution=0.5).ravel(), [1, 2.5, 5.5, 7], atol=1e-6)


@pytest.mark.parametrize("settings", [{"blur": 0.7}, {"resolution": 0.6}, {"blur": 1.0, "resolution": 0.5}])
def test_smoothing_keeps_what_is_constant_and_leaves_the_coarse_axis(settings: dict[str, float]) -> None:
    np.testing.assert_allclose(smooth_volume(np.full((1, 5, 40), 2.5, np.float32), **settings), 2.5, rtol=1e-6)
    planes = np.random.default_rng(0).normal(size=(6, 1, 1)).astype(np.float32)
    volume = np.broadcast_to(planes, (6, 7, 8))
    np.testing.assert_allclose(smooth_volume(volume, coarse=0, **settings), volume, atol=1e-6)
    assert np.abs(smooth_volume(volume, coarse=1, **settings) - volume).max() > 0.1


def test_smoothing_in_numpy_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.random.default_rng(0).normal(size=(11, 6, 9)).astype(np.float32)
    ours = smooth_volume(volume, blur=0.9, resolution=0.7)
    monkeypatch.setattr(volume_taps, "_compiled_loop", lambda: None)
    np.testing.assert_array_equal(smooth_volume(volume, blur=0.9, resolution=0.7), ours)
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(volume, 0.9, mode="nearest", truncate=4)
    np.testing.assert_allclose(smooth_volume(volume, blur=0.9), blurred, atol=1e-4)
