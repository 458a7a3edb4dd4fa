from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.labels import distance_to, edge_weights, gap_weights, objects_of, signed_distance


def straightforward_gaps(instance_map: np.ndarray, weight: float, width: float) -> np.ndarray:
    """As the paper says it: one distance map an object over the whole image, the two smallest of each pixel."""
    numbers = [number for number in np.unique(instance_map) if number]
    distances = np.sort([ndimage.distance_transform_edt(instance_map != number) for number in numbers], axis=0)
    return np.where(instance_map == 0, weight * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * width**2)), 0)


def random_objects(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    seeds = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    numbered, _ = ndimage.label(seeds > 0.6 * seeds.std())
    return numbered.astype(np.int32)


def test_gaps_by_hand() -> None:
    row = np.array([[1, 0, 0, 0, 2, 0, 0]])
    between = [10 * math.exp(-((a + b) ** 2) / 50) for a, b in ((1, 3), (2, 2), (3, 1), (1, 5), (2, 6))]
    np.testing.assert_allclose(gap_weights(row), [[0, *between[:3], 0, *between[3:]]], rtol=1e-5)


@pytest.mark.parametrize("shape", [(70, 90), (18, 22, 20)])
def test_gaps_are_those_of_the_paper(shape: tuple[int, ...]) -> None:
    objects = random_objects(shape)
    assert objects.max() > 3
    for width in (2.0, 5.0):
        expected = straightforward_gaps(objects, 10, width)
        np.testing.assert_allclose(gap_weights(objects, width_px=width), expected, rtol=1e-4, atol=2e-5)


def test_numbers_do_not_matter_and_one_object_has_no_gap() -> None:
    objects = random_objects((40, 50))
    renamed = np.where(objects > 0, 3 * (objects.max() + 1 - objects), 0)
    np.testing.assert_allclose(gap_weights(renamed), gap_weights(objects), rtol=1e-5)
    assert not gap_weights((objects == 1).astype(np.int32)).any()
    assert not gap_weights(np.zeros((4, 5), np.int32)).any()


def test_edges_by_hand() -> None:
    row = np.array([[3, 3, 3, 0, 0]])
    away = [10 * math.exp(-(d**2) / 8) for d in (2.5, 1.5, 0.5, 0.5, 1.5)]
    np.testing.assert_allclose(edge_weights(row, width_px=2), [away], rtol=1e-5)
    assert not edge_weights(np.full((3, 4), 7)).any()


def test_signed_distance_by_hand() -> None:
    row = np.array([[False, False, True, True, True, False]])
    np.testing.assert_allclose(signed_distance(row), [[1.5, 0.5, -0.5, -1.5, -0.5, 0.5]])
    cube = np.zeros((5, 5, 5), bool)
    cube[1:4, 1:4, 1:4] = True
    assert signed_distance(cube)[2, 2, 2] == -1.5 and signed_distance(cube)[0, 2, 2] == 0.5


def test_without_an_edge_there_is_no_distance() -> None:
    for mask in (np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        assert not signed_distance(mask).any()


def test_plane_and_volume_measure_alike() -> None:
    mask = random_objects((40, 50)) > 0
    np.testing.assert_allclose(distance_to(mask), distance_to(mask[None])[0], atol=1e-4)


def test_objects_are_parts_joined_by_faces() -> None:
    label_map = np.array([[1, 1, 0, 9], [0, 2, 1, 9], [2, 2, 1, 0]])
    objects = objects_of(label_map, ignore_index=9)
    assert objects.max() == 3
    assert objects[0, 0] == objects[0, 1] != objects[1, 2] == objects[2, 2]
    assert objects[1, 1] == objects[2, 0] and not objects[label_map == 9].any()


def test_errors() -> None:
    with pytest.raises(InputError, match=r"weight -1 of the borders: give 0 or more"):
        gap_weights(np.zeros((2, 2), np.int32), weight=-1)
    with pytest.raises(InputError, match=r"width 0 of the borders: give a positive number"):
        edge_weights(np.zeros((2, 2), np.int32), width_px=0)
