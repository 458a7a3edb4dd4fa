"""One resampling of a volume with its label map: where every voxel of a patch lies in the source, then its neighbours.

The loops are compiled (numba) and shared by image and label map, so that these cannot part; without numba NumPy gives
the same numbers, slowly. `benchmarks/volume_patches.py` compares with torch's affine_grid and grid_sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.compiled import compile_loop

# Cells of the elastic grid along each side of a patch. A cubic B-spline has three control points more.
CELLS = 3
CONTROLS = CELLS + 3
# Voxels whose places are held at once: they stay in the cache.
GROUP_VOXELS = 1 << 16

Patch = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class VolumeGeometry:
    """One drawn warp of volumes; places are (depth, row, column).

    Attributes:
        matrix: (3, 4) float64; place in the patch -> place in the source.
        field: (3, CONTROLS, CONTROLS, CONTROLS) float32, or None: control points of displacements in voxels of the
            patch, added before the matrix; cubic B-splines between (Rueckert et al., IEEE TMI 1999).
    """

    matrix: np.ndarray
    field: np.ndarray | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the patch is a plain part of the source, mirrored or not: nothing is interpolated then."""
        linear, start = self.matrix[:, :3], self.matrix[:, 3]
        return self.field is None and bool((np.abs(linear) == np.eye(3)).all() and (start == np.rint(start)).all())

    def displacement(self, patch: Patch, place: np.ndarray) -> np.ndarray:
        """(3,) displacement of one whole `place` in a patch of this size."""
        if self.field is None:
            return np.zeros(3)
        depth, row, col = (spline_weights(side)[int(at)] for side, at in zip(patch, place))
        return np.asarray(np.einsum("czyx,z,y,x->c", self.field, depth, row, col), np.float64)


@cache
def spline_weights(side: int) -> NDArray[np.float32]:
    """(side, CONTROLS) share of every control point in the places along one axis; rows sum to 1, none is negative."""
    place = np.arange(side) / max(1, side - 1) * CELLS
    distance = np.abs(place[:, None] - (np.arange(CONTROLS) - 1))
    near, far = 2 / 3 - distance**2 * (1 - distance / 2), np.maximum(2 - distance, 0) ** 3 / 6
    weights = np.where(distance < 1, near, far).astype(np.float32)
    weights.setflags(write=False)
    return weights


def warp_volume(
    image: np.ndarray, label_map: np.ndarray, geometry: VolumeGeometry, patch: Patch, *, outside_label: int = 0
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Apply a drawn warp to both: the image linearly, of the label map the value that has the largest linear share.

    Args:
        image: (C, D, H, W) float32. Outside it is 0.
        label_map: (D, H, W) integers; at a tie the smaller value wins.
        outside_label: what the label map is outside.
    Returns:
        (C, *patch) float32 and (*patch) of the label map's type.
    """
    moved, target = np.empty((len(image), *patch), np.float32), np.empty(patch, label_map.dtype)
    if geometry.is_cut:
        moved.fill(0)
        target.fill(outside_label)
        there, here = _overlap(geometry.matrix, label_map.shape, patch)
        moved[(slice(None), *there)] = image[(slice(None), *here)]
        target[there] = label_map[here]
        return moved, target
    bend, along = _bend(geometry, patch)
    find, blend, vote = _compiled_loops() or (_find_numpy, _blend_numpy, _vote_numpy)
    slices = max(1, GROUP_VOXELS // (patch[1] * patch[2]))
    for start in range(0, patch[0], slices):
        part = slice(start, min(start + slices, patch[0]))
        size = target[part].shape
        below, share = np.empty((3, *size), np.int32), np.empty((3, *size), np.float32)
        find(geometry.matrix, bend[part], along, start, below, share)
        for channel, result in zip(image, moved):
            blend(channel, below, share, result[part])
        vote(label_map, below, share, outside_label, target[part])
    return moved, target


def _overlap(matrix: np.ndarray, source: tuple[int, ...], patch: Patch) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a plain cut lies in the patch and in the source; along mirrored axes the source is read backwards."""
    there, here = [], []
    for axis in range(3):
        sign, start = int(matrix[axis, axis]), int(matrix[axis, 3])
        places = start + sign * np.arange(patch[axis])
        inside = np.flatnonzero((places >= 0) & (places < source[axis]))
        first, stop = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        begin, end = start + sign * first, start + sign * stop
        there.append(slice(first, stop))
        here.append(slice(begin, end if end >= 0 else None, sign) if len(inside) else slice(0, 0))
    return tuple(there), tuple(here)


def _bend(geometry: VolumeGeometry, patch: Patch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Displacements at the control columns of each row (d, h, 3, CONTROLS), and their shares along it (w, CONTROLS).

    Without a field there are no control columns.
    """
    if geometry.field is None:
        return np.empty((*patch[:2], 3, 0), np.float32), spline_weights(patch[2])[:, :0].copy()
    depth, row, along = (spline_weights(side).copy() for side in patch)  # read-only ones would be compiled anew
    # Sums are written out so that their order, and so the last bit, is the same on all machines.
    planes = sum(depth[:, n, None, None, None] * geometry.field[None, :, n] for n in range(CONTROLS))
    rows = sum(row[None, :, None, n, None] * np.asarray(planes)[:, None, :, n] for n in range(CONTROLS))
    return np.ascontiguousarray(rows, np.float32), along


# ---- the loops and their twins in NumPy


@cache
def _compiled_loops() -> tuple[Callable[..., Any], ...] | None:
    loops = [compile_loop(loop) for loop in (_find_loop, _blend_loop, _vote_loop)]
    return tuple(loop for loop in loops if loop is not None) or None


def _find_loop(matrix: Any, bend: Any, along: Any, start: int, below: Any, share: Any) -> None:
    """For voxels of the slices from `start` on: the source voxel at or before each along every axis, and how far on."""
    for z in range(below.shape[1]):
        for y in range(below.shape[2]):
            for x in range(below.shape[3]):
                bent_z = bent_y = bent_x = np.float32(0)
                for n in range(along.shape[1]):
                    bent_z += bend[z, y, 0, n] * along[x, n]
                    bent_y += bend[z, y, 1, n] * along[x, n]
                    bent_x += bend[z, y, 2, n] * along[x, n]
                at_z, at_y, at_x = start + z + np.float64(bent_z), y + np.float64(bent_y), x + np.float64(bent_x)
                for axis in range(3):
                    at = matrix[axis, 0] * at_z + matrix[axis, 1] * at_y + matrix[axis, 2] * at_x + matrix[axis, 3]
                    floor = np.floor(at)
                    below[axis, z, y, x] = np.int32(floor)
                    share[axis, z, y, x] = np.float32(at - floor)


def _find_numpy(matrix: Any, bend: Any, along: Any, start: int, below: Any, share: Any) -> None:
    sides = [np.arange(side, dtype=np.float64) for side in below.shape[1:]]
    places = np.meshgrid(sides[0] + start, *sides[1:], indexing="ij")
    bent = np.zeros(below.shape, np.float32)
    for n in range(along.shape[1]):
        bent += bend[..., n].transpose(2, 0, 1)[..., None] * along[:, n]
    at_z, at_y, at_x = (place + part for place, part in zip(places, bent))
    for axis in range(3):
        at = matrix[axis, 0] * at_z + matrix[axis, 1] * at_y + matrix[axis, 2] * at_x + matrix[axis, 3]
        below[axis], share[axis] = np.floor(at), at - np.floor(at)


def _blend_loop(channel: Any, below: Any, share: Any, result: Any) -> None:
    depth, height, width = channel.shape
    one, zero = np.float32(1), np.float32(0)
    for z in range(result.shape[0]):
        for y in range(result.shape[1]):
            for x in range(result.shape[2]):
                z0, y0, x0 = below[0, z, y, x], below[1, z, y, x], below[2, z, y, x]
                far, down, right = share[0, z, y, x], share[1, z, y, x], share[2, z, y, x]
                near, up, left = one - far, one - down, one - right
                z1, y1, x1 = z0 + 1, y0 + 1, x0 + 1
                if z0 < 0 or y0 < 0 or x0 < 0 or z1 >= depth or y1 >= height or x1 >= width:
                    # A neighbour outside weighs nothing; whatever voxel is read for it.
                    near, far = near if 0 <= z0 < depth else zero, far if 0 <= z1 < depth else zero
                    up, down = up if 0 <= y0 < height else zero, down if 0 <= y1 < height else zero
                    left, right = left if 0 <= x0 < width else zero, right if 0 <= x1 < width else zero
                    z0, z1 = min(max(z0, 0), depth - 1), min(max(z1, 0), depth - 1)
                    y0, y1 = min(max(y0, 0), height - 1), min(max(y1, 0), height - 1)
                    x0, x1 = min(max(x0, 0), width - 1), min(max(x1, 0), width - 1)
                upper = channel[z0, y0, x0] * left + channel[z0, y0, x1] * right
                lower = channel[z0, y1, x0] * left + channel[z0, y1, x1] * right
                first = upper * up + lower * down
                upper = channel[z1, y0, x0] * left + channel[z1, y0, x1] * right
                lower = channel[z1, y1, x0] * left + channel[z1, y1, x1] * right
                result[z, y, x] = first * near + (upper * up + lower * down) * far


def _blend_numpy(channel: Any, below: Any, share: Any, result: Any) -> None:
    low = [np.clip(first, 0, side - 1) for first, side in zip(below, channel.shape)]
    high = [np.clip(first + 1, 0, side - 1) for first, side in zip(below, channel.shape)]
    near, up, left = (
        (np.float32(1) - part) * ((first >= 0) & (first < side))
        for part, first, side in zip(share, below, channel.shape)
    )
    far, down, right = (
        part * ((first + 1 >= 0) & (first + 1 < side)) for part, first, side in zip(share, below, channel.shape)
    )

    def row(z: Any, y: Any) -> Any:
        return channel[z, y, low[2]] * left + channel[z, y, high[2]] * right

    first, last = (row(z, low[1]) * up + row(z, high[1]) * down for z in (low[0], high[0]))
    result[...] = first * near + last * far


def _vote_loop(label_map: Any, below: Any, share: Any, outside: int, result: Any) -> None:
    depth, height, width = label_map.shape
    labels, shares = np.empty(8, np.int64), np.empty(8, np.float32)
    for z in range(result.shape[0]):
        for y in range(result.shape[1]):
            for x in range(result.shape[2]):
                z0, y0, x0 = below[0, z, y, x], below[1, z, y, x], below[2, z, y, x]
                is_inside = z0 >= 0 and y0 >= 0 and x0 >= 0
                if is_inside and z0 + 1 < depth and y0 + 1 < height and x0 + 1 < width:
                    value = label_map[z0, y0, x0]  # most voxels lie among eight of one class
                    if (
                        label_map[z0, y0, x0 + 1] == value
                        and label_map[z0, y0 + 1, x0] == value
                        and label_map[z0, y0 + 1, x0 + 1] == value
                        and label_map[z0 + 1, y0, x0] == value
                        and label_map[z0 + 1, y0, x0 + 1] == value
                        and label_map[z0 + 1, y0 + 1, x0] == value
                        and label_map[z0 + 1, y0 + 1, x0 + 1] == value
                    ):
                        result[z, y, x] = value
                        continue
                for corner in range(8):
                    far, down, right = corner >> 2, (corner >> 1) & 1, corner & 1
                    weight = share[0, z, y, x] if far else np.float32(1) - share[0, z, y, x]
                    weight *= share[1, z, y, x] if down else np.float32(1) - share[1, z, y, x]
                    weight *= share[2, z, y, x] if right else np.float32(1) - share[2, z, y, x]
                    row, line, col = z0 + far, y0 + down, x0 + right
                    labels[corner], shares[corner] = outside, weight
                    if 0 <= row < depth and 0 <= line < height and 0 <= col < width:
                        labels[corner] = label_map[row, line, col]
                chosen, most = labels[0], np.float32(-1)
                for corner in range(8):
                    total = np.float32(0)
                    for other in range(8):
                        if labels[other] == labels[corner]:
                            total += shares[other]
                    if total > most or (total == most and labels[corner] < chosen):
                        chosen, most = labels[corner], total
                result[z, y, x] = chosen


def _vote_numpy(label_map: Any, below: Any, share: Any, outside: int, result: Any) -> None:
    labels, shares = [], []
    for corner in np.ndindex(2, 2, 2):
        places = [first + step for first, step in zip(below, corner)]
        inside = np.ones(result.shape, bool)
        weight = np.ones(result.shape, np.float32)
        for place, step, part, side in zip(places, corner, share, label_map.shape):
            inside &= (place >= 0) & (place < side)
            weight = weight * (part if step else np.float32(1) - part)
        kept = tuple(np.clip(place, 0, side - 1) for place, side in zip(places, label_map.shape))
        labels.append(np.where(inside, label_map[kept].astype(np.int64), outside))
        shares.append(weight)
    chosen, most = labels[0], np.full(result.shape, -1, np.float32)
    for label in labels:
        total = np.zeros(result.shape, np.float32)
        for other, weight in zip(labels, shares):
            total += weight * (other == label)
        better = (total > most) | ((total == most) & (label < chosen))
        chosen, most = np.where(better, label, chosen), np.where(better, total, most)
    result[...] = chosen
