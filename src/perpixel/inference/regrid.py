"""Probabilities from the grid that a net works on to another over the same field of view, while they are being made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# How the samples along an axis are made: lower and upper neighbour, and the share of the upper one.
Taps = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Regrid:
    """Where probabilities are wanted.

    Attributes:
        size: (D, H, W) voxels of that grid.
        coarse_axis: the axis along which the nearest voxel is taken, as `images.resample` does; None interpolates
            linearly along all.
    """

    size: tuple[int, ...]
    coarse_axis: int | None = None

    def steps(self, source: tuple[int, ...], along: int) -> RegridSteps:
        """The change of grid for probabilities that come in parts along one axis, which stands first in them."""
        axes = [along, *(axis for axis in range(len(source)) if axis != along)]
        return RegridSteps([axis_taps(source[axis], self.size[axis], axis == self.coarse_axis) for axis in axes])


class RegridSteps:
    """Takes (K, n, *rest) in order and gives what can be made of it. Only what the next samples need is kept."""

    def __init__(self, taps: list[Taps]) -> None:
        self.taps = taps
        self.kept: Tensor | None = None  # slices that are still needed, on the new grid but for the first axis
        self.first = 0  # place of the first of them
        self.done = 0  # slices given so far

    def push(self, part: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(place of the first slice, (K, m, *rest) of the new grid), none or one pair."""
        for axis, taps in enumerate(self.taps[1:], start=2):
            part = _interpolate(part, axis, taps)
        kept = part if self.kept is None else torch.cat([self.kept, part], 1)
        end = self.first + kept.shape[1]
        lower, upper, share = self.taps[0]
        ready = int((upper < end).sum())  # `upper` never falls
        if ready > self.done:
            rows = slice(self.done, ready)
            yield self.done, _interpolate(kept, 1, (lower[rows] - self.first, upper[rows] - self.first, share[rows]))
            self.done = ready
        needed = int(lower[ready]) if ready < len(lower) else end
        self.kept = kept[:, max(0, needed - self.first) :].clone()
        self.first = end - self.kept.shape[1]


def axis_taps(source: int, target: int, is_nearest: bool) -> Taps:
    """How `target` samples along an axis come from `source` ones over the same length."""
    place = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    lower = (place + 0.5 if is_nearest else place).floor().long().clamp_max(source - 1)
    share = torch.zeros(target) if is_nearest else (place - lower).float()
    return lower, torch.where(share > 0, lower + 1, lower), share


def _interpolate(values: Tensor, axis: int, taps: Taps) -> Tensor:
    lower, upper, share = (each.to(values.device) for each in taps)
    if len(lower) == values.shape[axis] and not share.any() and bool((lower.diff() == 1).all()):
        return values
    below = values.index_select(axis, lower)
    if not share.any():
        return below
    return below.lerp_(values.index_select(axis, upper), share.view(-1, *(1,) * (values.ndim - 1 - axis)))
