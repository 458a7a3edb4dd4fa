"""Where points lie in the permutohedral lattice: what the compiled and the torch form of it share.

Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. Features of
d numbers, each divided by the standard deviation of its Gaussian, are placed in the plane of R^(d+1) whose coordinates
add up to zero. The lattice there has the points whose coordinates are whole and alike modulo d + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perpixel.errors import InputError

# Single precision still tells places in a cell apart up to here.
_FARTHEST = 2.0**19


def elevation(dimensions: int) -> np.ndarray:
    """(d + 1, d) float64: features -> coordinates, scaled so that splat, blur and slice make a Gaussian of width 1."""
    d = dimensions
    scale = math.sqrt(2 / 3) * (d + 1) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))
    matrix = np.triu(np.ones((d + 1, d)))
    matrix[np.arange(1, d + 1), np.arange(d)] = -np.arange(1.0, d + 1)
    return matrix * scale


def origin(dimensions: int) -> np.ndarray:
    """(d,) float64 added to all features: little, but without it the first row of an image and all that is black in it
    would lie on the faces between cells, where rounding decides which lattice points there are."""
    return 0.001 * np.arange(1.0, dimensions + 1)


def slice_factor(dimensions: int) -> float:
    """What the sum over splat, blur and slice is multiplied by: the blur's weights (1/2, 1, 1/2) add up to two."""
    return 1 / (1 + 2.0**-dimensions)


@dataclass(frozen=True)
class Keys:
    """One whole number for each lattice point: the sum of its coordinates times `strides`.

    Linear, so that the key of a neighbour is the key plus a constant.

    Attributes:
        strides: (d + 1,) int64. Of a mixed radix where the reachable coordinates fit into 62 bits, so that keys are
            one to one; else large odd numbers, taken modulo 2^64: that two of a million points share a key then has
            a chance of about 1 in 10^7.
    """

    strides: np.ndarray

    @classmethod
    def within(cls, low: np.ndarray, high: np.ndarray) -> Keys:
        """Keys for features between `low` and `high`, (d,) each.

        Raises:
            InputError: the features are so many widths away from 0 that single precision cannot place them.
        """
        d = len(low)
        matrix = elevation(d)
        ends = np.stack([matrix * low, matrix * high])
        bottom, top = ends.min(0).sum(1), ends.max(0).sum(1)
        if max(-bottom.min(), top.max()) > _FARTHEST * (d + 1):
            raise InputError(
                f"the image spans {np.max(np.abs([low, high])):.3g} widths of a kernel: make the widths larger"
            )
        # A point is within d + 1 of the corners of its cell, and blurring looks as far again.
        sizes = (np.ceil(top) - np.floor(bottom) + 4 * (d + 1) + 1)[:d]
        if np.log2(sizes).sum() < 62:
            strides = [1]
            for size in sizes[:-1]:
                strides.append(strides[-1] * int(size))
            return cls(np.array([*strides, 0], np.int64))
        random = np.random.Generator(np.random.PCG64(d))
        return cls(random.integers(-(1 << 62), 1 << 62, d + 1, dtype=np.int64) | 1)

    def steps(self) -> np.ndarray:
        """(d + 1,) int64: what the key changes by along each direction of the blur, (1, ..., 1, -d, 1, ..., 1)."""
        with np.errstate(over="ignore"):
            return self.strides.sum() - len(self.strides) * self.strides
