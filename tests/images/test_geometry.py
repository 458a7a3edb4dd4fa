"""Orientation, canonical axes and comparison of geometries, worked out by hand and over all 48 orders of axes."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from perpixel.images import Geometry, compare_geometries, to_canonical
from perpixel.images.geometry import is_sound_affine

SHAPE = (3, 4, 5)


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], turn: np.ndarray | None = None) -> np.ndarray:
    """World axis and sign along which each array axis runs; voxels of 1, 2 and 3 mm along the axes of the array."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * (axis + 1)
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-10, 20, 30)
    return affine


def turned(degrees: float, about: tuple[float, float, float]) -> np.ndarray:
    """Rodrigues' rotation."""
    axis = np.array(about) / np.linalg.norm(about)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def test_there_are_48_orientations() -> None:
    assert len({Geometry(SHAPE, affine_of(*each)).orientation for each in ORIENTATIONS}) == 48


@pytest.mark.parametrize(("diagonal", "letters"), [((1, 1, 1), "RAS"), ((-1, -1, 1), "LPS"), ((-1, 1, -1), "LAI")])
def test_orientation_by_hand(diagonal: tuple[int, ...], letters: str) -> None:
    assert Geometry(SHAPE, np.diag([*diagonal, 1.0])).orientation == letters


def test_a_ras_volume_by_hand() -> None:
    geometry = Geometry(SHAPE, np.diag([1.0, 2.0, 3.0, 1.0]))
    turn = to_canonical(geometry)
    assert (turn.order, turn.flips) == ((2, 1, 0), (False, True, True))
    canonical = turn.geometry(geometry)
    assert canonical.shape == (5, 4, 3)
    assert canonical.spacing_mm == (3.0, 2.0, 1.0)
    assert canonical.orientation == "SPL"
    # The first voxel is the lowest, foremost and rightmost one: stored at (2, 3, 0).
    np.testing.assert_array_equal(canonical.position_mm((0, 0, 0)), (2, 6, 0))
    array = np.arange(60).reshape(SHAPE)
    assert turn.apply(array)[0, 0, 0] == array[2, 3, 0]


@pytest.mark.parametrize("turn_by", [None, (20, (1, 2, 3)), (40, (0, 1, 1))])
def test_every_voxel_keeps_its_place(turn_by: tuple[float, tuple[float, float, float]] | None) -> None:
    array = np.arange(60).reshape(SHAPE)
    rotation = turned(*turn_by) if turn_by else None
    for order, signs in ORIENTATIONS:
        geometry = Geometry(SHAPE, affine_of(order, signs, rotation))
        reorientation = to_canonical(geometry)
        canonical = reorientation.geometry(geometry)
        moved = reorientation.apply(array)
        assert moved.shape == canonical.shape
        places = {int(moved[i]): canonical.position_mm(i) for i in np.ndindex(moved.shape)}
        for index in np.ndindex(SHAPE):
            np.testing.assert_allclose(places[int(array[index])], geometry.position_mm(index), atol=1e-9)
        np.testing.assert_array_equal(reorientation.undo(moved), array)
        if turn_by is None or turn_by[0] == 20:
            assert canonical.orientation == "SPL"


def test_extra_axes_lead() -> None:
    geometry = Geometry(SHAPE, affine_of((1, 2, 0), (1, -1, 1)))
    turn = to_canonical(geometry)
    array = np.random.default_rng(0).random((2, *SHAPE))
    both = turn.apply(array)
    np.testing.assert_array_equal(both[1], turn.apply(array[1]))
    np.testing.assert_array_equal(turn.undo(both), array)


def test_nearly_equal_oblique_affines_take_the_same_order() -> None:
    rotation = turned(45, (0, 0, 1))
    one, other = (affine_of((0, 1, 2), (1, 1, 1), rotation) for _ in range(2))
    other[:3, :3] += 1e-6
    assert to_canonical(Geometry(SHAPE, one)) == to_canonical(Geometry(SHAPE, other))


@pytest.mark.parametrize(
    ("affine", "sound"),
    [
        (np.eye(4), True),
        (np.diag([1.0, 0.0, 1.0, 1.0]), False),
        (np.diag([1.0, np.nan, 1.0, 1.0]), False),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), False),
        (np.diag([1e-12, 1.0, 1.0, 1.0]), False),
    ],
)
def test_sound_affines(affine: np.ndarray, sound: bool) -> None:
    assert is_sound_affine(affine) is sound


def test_same_geometry_differs_in_nothing() -> None:
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    assert not compare_geometries(Geometry(SHAPE, affine), Geometry(SHAPE, affine + 1e-6))


@pytest.mark.parametrize(
    ("shape", "affine", "parts", "text"),
    [
        ((3, 4, 6), np.eye(4), {"shape"}, "3 x 4 x 5 voxels against 3 x 4 x 6"),
        (SHAPE, np.diag([1.0, 1.0, 2.0, 1.0]), {"spacing"}, "spacing 1 x 1 x 1 mm against 1 x 1 x 2 mm"),
        (SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]), {"direction"}, "axes turned by 180 degrees"),
        (
            SHAPE,
            np.array([[1.0, 0, 0, 3], [0, 1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]]),
            {"origin"},
            r"first voxel 5 mm away, at \(0, 0, 0\) against \(3, 4, 0\) mm",
        ),
    ],
)
def test_what_differs_by_hand(shape: tuple[int, int, int], affine: np.ndarray, parts: set[str], text: str) -> None:
    difference = compare_geometries(Geometry(SHAPE, np.eye(4)), Geometry(shape, affine))
    assert {name for name in ("shape", "spacing", "direction", "origin") if getattr(difference, name)} == parts
    with pytest.raises(ValueError, match=text):
        raise ValueError(difference.text)


def test_shift_is_counted_in_voxels() -> None:
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    moved[0, 3] = 0.6
    difference = compare_geometries(Geometry(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])), Geometry(SHAPE, moved))
    assert difference.shift_voxels == pytest.approx(0.3)
    assert compare_geometries(Geometry(SHAPE, np.eye(4)), Geometry((9, 9, 9), np.eye(4))).shift_voxels == np.inf


def test_json_round_trip() -> None:
    geometry = Geometry(SHAPE, affine_of((2, 0, 1), (1, -1, 1), turned(12.3, (3, 1, 2))))
    again = Geometry.from_json(geometry.to_json())
    assert again.shape == geometry.shape
    np.testing.assert_array_equal(again.affine, geometry.affine)
