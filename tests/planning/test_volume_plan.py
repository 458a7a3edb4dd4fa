"""Patches, strides and kernels of 3D U-Nets, and the widths that a budget allows."""

from __future__ import annotations

from math import prod

import pytest

from perpixel.planning import plan_shape


def test_small_volumes_are_seen_whole_rounded_up_to_the_strides() -> None:
    """Hippocampus: nnU-Net plans 40 x 56 x 40 with three poolings for it as well."""
    shape = plan_shape((36, 50, 35), (1.0, 1.0, 1.0), most_voxels=64**3)
    assert shape.patch == (40, 56, 40)
    assert shape.pool == [[2, 2, 2]] * 3 and shape.kernels == [[3, 3, 3]] * 4


def test_thick_slices_are_pooled_later() -> None:
    """Prostate, 20 x 320 x 256 at 3.6 x 0.61 x 0.61 mm: the first stages work within the slices."""
    shape = plan_shape((20, 320, 256), (3.6, 0.61, 0.61), most_voxels=20 * 320 * 256)
    assert shape.kernels[0] == [1, 3, 3] and shape.kernels[1] == [1, 3, 3] and shape.kernels[2] == [3, 3, 3]
    assert shape.pool[0] == [1, 2, 2] and shape.pool[1] == [1, 2, 2] and shape.pool[2] == [2, 2, 2]


@pytest.mark.parametrize("most", [32**3, 64**3, 96**3])
def test_large_volumes_give_cubes_in_millimetres(most: int) -> None:
    shape = plan_shape((400, 300, 300), (1.0, 2.0, 2.0), most_voxels=most)
    depth, height, width = shape.patch
    assert 0.8 < depth * 1.0 / (height * 2.0) < 1.25 and height == width
    steps = [prod(stride[axis] for stride in shape.pool) for axis in range(3)]
    assert all(side % step == 0 for side, step in zip(shape.patch, steps))
    assert prod(shape.patch) < 2.2 * most


def test_an_axis_that_cannot_be_longer_gives_its_share_to_the_others() -> None:
    shape = plan_shape((8, 200, 200), (1.0, 1.0, 1.0), most_voxels=64**3)
    assert shape.patch[0] == 8 and shape.patch[1] > 120


def test_a_given_patch_stays() -> None:
    assert plan_shape((50, 50, 50), (1.0, 1.0, 1.0), most_voxels=8, patch=(17, 9, 5)).patch == (17, 9, 5)
    tiny = plan_shape((3, 3, 3), (1.0, 1.0, 1.0), most_voxels=64**3)
    assert tiny.pool == [[1, 1, 1]] and len(tiny.kernels) == 2
