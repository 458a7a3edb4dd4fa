"""What the filter bank is computed with: a compiled loop over NumPy arrays, or operations of torch.

Both multiply and add single floats in the same order, each rounded: in 2-D their results are the same to the last bit.
The arc cosine behind the eigenvalues of volumes is taken in double precision, where libraries differ far below what is
kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perpixel.compiled import compile_loop

# Numbers that are summed while they lie in the innermost cache.
_CHUNK = 2048


class ArrayForm:
    """NumPy arrays of shape (C, *spatial), correlated by the compiled loop."""

    maths = np

    def __init__(self, loop: Callable[..., Any]) -> None:
        self.loop = loop

    def correlate(self, image: np.ndarray, taps: np.ndarray, sign: int, axis: int) -> np.ndarray:
        shape = list(image.shape)
        shape[axis + 1] -= 2 * (len(taps) - 1)
        target = np.empty(shape, np.float32)
        outer, step = math.prod(shape[: axis + 1]), math.prod(shape[axis + 2 :])
        self.loop(np.ascontiguousarray(image).reshape(outer, -1), taps, sign, step, target.reshape(outer, -1))
        return target

    def sqrt(self, values: np.ndarray) -> np.ndarray:
        return np.sqrt(values)

    def double(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float64)

    def single(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)


class TorchForm:
    """Tensors of shape (C, *spatial), on any device, traceable."""

    maths = torch

    def correlate(self, image: Tensor, taps: np.ndarray, sign: int, axis: int) -> Tensor:
        reach, tap = len(taps) - 1, [float(value) for value in taps]

        def shifted(by: int) -> Tensor:
            span = slice(reach + by, (by - reach) or None)
            return image[(slice(None),) * (axis + 1) + (span,)]

        total = tap[0] * shifted(0)
        for t in range(1, reach + 1):
            both = shifted(t) + shifted(-t) if sign > 0 else shifted(t) - shifted(-t)
            total = total + tap[t] * both
        return total

    def sqrt(self, values: Tensor) -> Tensor:
        # In single precision the root of torch's CPU library is off by a last bit here and there.
        return values.double().sqrt().float()

    def double(self, values: Tensor) -> Tensor:
        return values.double()

    def single(self, values: Tensor) -> Tensor:
        return values.float()


@cache
def array_form() -> ArrayForm | None:
    """None without numba (or with its compiler switched off)."""
    loop = compile_loop(_correlate)
    return None if loop is None else ArrayForm(loop)


def _correlate(source, taps, sign, step, target):  # type: ignore[no-untyped-def]
    """target (outer, n * step) = taps along the middle axis of source (outer, (n + 2 r) * step)."""
    reach = len(taps) - 1
    for outer in range(target.shape[0]):
        for begin in range(0, target.shape[1], _CHUNK):
            end = min(begin + _CHUNK, target.shape[1])
            total = target[outer, begin:end]
            middle = source[outer, begin + reach * step : end + reach * step]
            for i in range(len(total)):
                total[i] = taps[0] * middle[i]
            for t in range(1, reach + 1):
                tap = taps[t]
                after = source[outer, begin + (reach + t) * step : end + (reach + t) * step]
                before = source[outer, begin + (reach - t) * step : end + (reach - t) * step]
                if sign > 0:
                    for i in range(len(total)):
                        total[i] += tap * (after[i] + before[i])
                else:
                    for i in range(len(total)):
                        total[i] += tap * (after[i] - before[i])


def eigenvalues(matrix: Sequence[Any], form: ArrayForm | TorchForm) -> list[Any]:
    """Of symmetric 2x2 or 3x3 matrices given by the rows of their upper triangles; largest first.

    The 3x3 form is the trigonometric one (Smith, "Eigenvalues of a symmetric 3x3 matrix", CACM 1961).
    """
    if len(matrix) == 3:
        xx, xy, yy = matrix
        middle, half = (xx + yy) * 0.5, (xx - yy) * 0.5
        reach = form.sqrt(half * half + xy * xy)
        return [middle + reach, middle - reach]
    xx, xy, xz, yy, yz, zz = (form.double(values) for values in matrix)
    mean = (xx + yy + zz) / 3
    xx, yy, zz = xx - mean, yy - mean, zz - mean
    squares = (xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)) / 6
    spread = form.maths.sqrt(squares)
    determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    # Three equal eigenvalues: the spread is 0, and whatever the angle is, it is multiplied by that.
    cosine = form.maths.clip(determinant / form.maths.clip(2 * squares * spread, 1e-300, None), -1.0, 1.0)
    angle = form.maths.arccos(cosine) / 3
    largest = mean + 2 * spread * form.maths.cos(angle)
    smallest = mean + 2 * spread * form.maths.cos(angle + 2 * math.pi / 3)
    return [form.single(values) for values in (largest, 3 * mean - largest - smallest, smallest)]
