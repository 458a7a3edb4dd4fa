"""Where the voxels of a volume lie in the patient: orientation, spacing, the canonical order of axes, and comparison.

World coordinates are millimetres as NIfTI has them: x to the patient's right, y to the front (anterior), z to the head
(superior). Inside perpixel the axes (depth, row, column) run towards superior, posterior and left ("SPL"), so that the
slices along the first axis look as a radiologist expects them: front of the body up, its right side at the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np

# Letters of the world axes, towards smaller and towards larger coordinates.
LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
# World axis and sign that depth, row and column run along.
CANONICAL = ((2, 1), (1, -1), (0, -1))
# The order of a NIfTI file's axes comes first where an axis lies between two world axes.
ORDERS = ((2, 1, 0), *(order for order in permutations(range(3)) if order != (2, 1, 0)))
TIE = 1e-3
# Two grids are one where no corner is further apart than this share of a voxel: files round their numbers.
SAME_VOXEL_SHARE = 0.05
SAME_SPACING = 1e-3
SAME_ANGLE = 0.1  # degrees


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in the world.

    Attributes:
        shape: voxels along each axis of the array.
        affine: (4, 4) float64; array index -> centre of the voxel in mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis of the array."""
        first, second, third = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return first, second, third

    @cached_property
    def directions(self) -> np.ndarray:
        """(3, 3); column i is the unit vector along which array axis i runs."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing_mm))

    @property
    def orientation(self) -> str:
        """Where each array axis runs to, such as "RAS"."""
        order, flips = _axes(self.affine)
        letters = [""] * 3
        for (world, sign), axis, flip in zip(CANONICAL, order, flips):
            letters[axis] = LETTERS[world][int((sign > 0) != flip)]
        return "".join(letters)

    def position_mm(self, index: np.ndarray | tuple[float, float, float]) -> np.ndarray:
        """(..., 3) array indices, fractions allowed -> (..., 3) world coordinates."""
        return np.asarray(np.asarray(index, float) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Geometry:
        rows, cols, slices = (int(side) for side in content["shape"])
        return cls((rows, cols, slices), np.asarray(content["affine"], np.float64))


@dataclass(frozen=True)
class Reorientation:
    """From the order of axes in a file to the canonical one, and back. Views only: nothing is copied.

    Attributes:
        order: for depth, row and column the axis of the file.
        flips: whether that axis runs the other way.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """(..., three axes of the file) -> (..., D, H, W)."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return turned[(..., *self._steps())]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """(..., D, H, W) -> (..., three axes of the file)."""
        lead = array.ndim - 3
        straight = array[(..., *self._steps())]
        back = np.argsort(self.order)
        return straight.transpose(*range(lead), *(lead + int(axis) for axis in back))

    def _steps(self) -> tuple[slice, slice, slice]:
        first, second, third = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return first, second, third

    def geometry(self, source: Geometry) -> Geometry:
        """The canonical geometry of a file's one: every voxel keeps its place in the world."""
        change = np.zeros((4, 4))
        change[3, 3] = 1
        for axis, (stored, flip) in enumerate(zip(self.order, self.flips)):
            change[stored, axis] = -1 if flip else 1
            change[stored, 3] = source.shape[stored] - 1 if flip else 0
        depth, height, width = (source.shape[axis] for axis in self.order)
        return Geometry((depth, height, width), source.affine @ change)


def to_canonical(source: Geometry) -> Reorientation:
    """The reorientation that brings an array of this geometry nearest to superior, posterior, left."""
    return Reorientation(*_axes(source.affine))


def _axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each canonical axis the array axis that lies nearest to it, and whether it runs the other way."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best, order = -1.0, ORDERS[0]
    for one in ORDERS:
        fit = sum(abs(directions[world, axis]) for (world, _), axis in zip(CANONICAL, one))
        if fit > best + TIE:
            best, order = fit, one
    first, second, third = (bool(directions[world, axis] * sign < 0) for (world, sign), axis in zip(CANONICAL, order))
    return (order[0], order[1], order[2]), (first, second, third)


def is_sound_affine(affine: np.ndarray) -> bool:
    """Whether the affine is finite and gives every axis a length and a direction of its own."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 1e-9).all() or not (lengths < 1e9).all():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-3)


@dataclass(frozen=True)
class GeometryDifference:
    """How two geometries differ, one sentence part for each kind; empty where they agree.

    Attributes:
        shift_voxels: the largest distance of corresponding corners in voxels; infinite where the shapes differ.
    """

    shape: str = ""
    spacing: str = ""
    direction: str = ""
    origin: str = ""
    shift_voxels: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.text)

    @property
    def text(self) -> str:
        """All parts in one line."""
        return ", ".join(part for part in (self.shape, self.spacing, self.direction, self.origin) if part)


def compare_geometries(one: Geometry, other: Geometry) -> GeometryDifference:
    """What differs between two geometries with the same order of axes (both canonical, or both as stored)."""
    shape = ""
    if one.shape != other.shape:
        shape = f"{_numbers(one.shape)} voxels against {_numbers(other.shape)}"
        shift = float("inf")
    else:
        last = np.array(one.shape, float) - 1
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * last
        apart = np.linalg.norm(one.position_mm(corners) - other.position_mm(corners), axis=1)
        shift = float(apart.max() / min(*one.spacing_mm, *other.spacing_mm))
        if shift <= SAME_VOXEL_SHARE:
            return GeometryDifference(shift_voxels=shift)
    spacing, direction = _spacing_part(one, other), _direction_part(one, other)
    distance = float(np.linalg.norm(one.affine[:3, 3] - other.affine[:3, 3]))
    origin = ""
    nothing_else = not (shape or spacing or direction)
    if distance > SAME_VOXEL_SHARE * min(*one.spacing_mm, *other.spacing_mm) or nothing_else:
        places = [_numbers(np.round(each.affine[:3, 3], 2).tolist(), ", ") for each in (one, other)]
        origin = f"first voxel {distance:.3g} mm away, at ({places[0]}) against ({places[1]}) mm"
    return GeometryDifference(shape, spacing, direction, origin, shift)


def _spacing_part(one: Geometry, other: Geometry) -> str:
    ratio = np.divide(one.spacing_mm, other.spacing_mm)
    if bool((np.abs(ratio - 1) <= SAME_SPACING).all()):
        return ""
    return f"spacing {_numbers(one.spacing_mm)} mm against {_numbers(other.spacing_mm)} mm"


def _direction_part(one: Geometry, other: Geometry) -> str:
    # One minus the cosine loses small angles: the sine of half of it does not.
    halves = np.linalg.norm(one.directions - other.directions, axis=0) / 2
    angle = float(np.degrees(2 * np.arcsin(np.clip(halves, 0, 1))).max())
    return f"axes turned by {angle:.3g} degrees" if angle > SAME_ANGLE else ""


def _numbers(values: Any, between: str = " x ") -> str:
    return between.join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
