"""How large patches of volumes are, and how a 3D U-Net pools them.

Rules of Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 2021, with the sizes that a CPU can bear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

Triple = tuple[int, int, int]

# Sides of the coarsest maps are not halved below this.
MIN_MAP = 4
# Stages of the deepest net.
MAX_STAGES = 6
# An axis whose voxels are more than this much coarser than the finest is neither pooled nor convolved over yet.
COARSER = 2.0


@dataclass(frozen=True)
class VolumeShape:
    """A patch and the strides and kernels of each stage, each (depth, row, column)."""

    patch: Triple
    pool: list[list[int]]
    kernels: list[list[int]]


def plan_shape(
    size: Sequence[int], spacing_mm: Sequence[float], *, most_voxels: int, patch: Sequence[int] | None = None
) -> VolumeShape:
    """The largest patch that is as wide as it is high and deep in millimetres, as far as volumes of `size` go.

    Args:
        size: median (d, h, w) at the training spacing.
        most_voxels: of a patch, but for what rounding to the strides adds.
        patch: given by the user; it stays as it is.
    """
    sides = list(patch) if patch is not None else _fitting(size, spacing_mm, most_voxels)
    pool, kernels = _strides(sides, spacing_mm)
    if patch is None:
        factors = [prod(stride[axis] for stride in pool) for axis in range(3)]
        sides = [ceil(side / factor) * factor for side, factor in zip(sides, factors)]
    return VolumeShape((sides[0], sides[1], sides[2]), pool, kernels)


def _fitting(size: Sequence[int], spacing_mm: Sequence[float], most_voxels: int) -> list[int]:
    """Sides of a box of equal sides in millimetres, none longer than the volume: what one cannot take, others do."""
    sides = [float(side) for side in size]
    if prod(sides) <= most_voxels:
        return list(map(int, size))
    low, high = 0.0, max(side * voxel for side, voxel in zip(size, spacing_mm))
    for _ in range(60):  # the length of the box, by halving
        middle = (low + high) / 2
        cut = [min(side, middle / voxel) for side, voxel in zip(size, spacing_mm)]
        low, high = (middle, high) if prod(cut) <= most_voxels else (low, middle)
    return [max(1, int(min(side, low / voxel))) for side, voxel in zip(size, spacing_mm)]


def _strides(sides: Sequence[int], spacing_mm: Sequence[float]) -> tuple[list[list[int]], list[list[int]]]:
    """(strides between the stages, kernel of each stage) for a patch."""
    left, voxel = [float(side) for side in sides], [float(side) for side in spacing_mm]
    pool: list[list[int]] = []
    kernels: list[list[int]] = []
    while True:
        finest = min(voxel)
        kernels.append([1 if each > COARSER * finest else 3 for each in voxel])
        stride = [2 if side >= 2 * MIN_MAP and each < COARSER * finest else 1 for side, each in zip(left, voxel)]
        if max(stride) == 1 or len(kernels) == MAX_STAGES:
            break
        pool.append(stride)
        left = [side / step for side, step in zip(left, stride)]
        voxel = [each * step for each, step in zip(voxel, stride)]
    if not pool:  # a net has two stages at least
        pool.append([1, 1, 1])
        kernels.append(kernels[-1])
    return pool, kernels
