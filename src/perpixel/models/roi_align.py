"""RoIAlign over the levels of a pyramid: boxes of any size -> cells of one size, without rounding.

He et al., "Mask R-CNN", ICCV 2017: every cell is the mean of 2x2 samples, each interpolated between four pixels. Which
level a box is taken from is Lin et al., "Feature pyramid networks for object detection", CVPR 2017, equation 1.

On a CPU a loop of our own takes all channels of a pixel at once, where torchvision's goes channel by channel on one
thread: 4 times as fast forwards, 6 times backwards (512 boxes to 7x7, 256 channels, one thread). Elsewhere
torchvision's is used; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perpixel.compiled import Workers, compile_loop

# A box of 224 pixels a side belongs to level 4, stride 16.
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4
SAMPLES = 2  # a side, in each cell
ROIS = 32  # that a thread takes at a time


class PyramidRoIAlign(nn.Module):
    """Boxes -> cells of the level that fits their size: (N, C, side, side), in the order of the boxes.

    Args:
        strides: of the levels, fine to coarse.
        aligned: sample where the pixels' centres are; False lies half a pixel off, as torchvision's weights want it.
    """

    def __init__(self, strides: Sequence[int], side: int, *, aligned: bool) -> None:
        super().__init__()
        self.strides, self.side, self.aligned = tuple(strides), side, aligned

    def forward(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """[(B, C, H / strides[i], W / strides[i])] from `prepare_levels` and B times (N_b, 4) -> (N, C, side, side)."""
        owner = torch.cat([box.new_full((len(box), 1), index) for index, box in enumerate(boxes)])
        rois = torch.cat([owner, torch.cat(list(boxes))], dim=1).detach()
        level = self.level_of(rois[:, 1:])
        if runs_compiled(levels[0]):
            cells: Tensor = _Align.apply(rois, level, self.strides, self.side, self.aligned, *levels)
            return cells
        return self._with_torchvision(levels, rois, level)

    def level_of(self, boxes: Tensor) -> Tensor:
        """(N, 4) -> (N,) index of the level: one finer for each halving of the box's side, within those there are."""
        finest = self.strides[0].bit_length() - 1
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        level = (CANONICAL_LEVEL + (sides / CANONICAL_SIDE).log2() + 1e-6).floor()
        return (level - finest).clamp(0, len(self.strides) - 1).long()

    def _with_torchvision(self, levels: Sequence[Tensor], rois: Tensor, level: Tensor) -> Tensor:
        from torchvision.ops import roi_align

        pooled, order = [], []
        for index, (maps, stride) in enumerate(zip(levels, self.strides, strict=True)):
            chosen = torch.nonzero(level == index)[:, 0]
            pooled.append(roi_align(maps, rois[chosen], self.side, 1 / stride, SAMPLES, self.aligned))
            order.append(chosen)
        return torch.cat(pooled)[torch.cat(order).argsort()]


def prepare_levels(levels: Sequence[Tensor]) -> list[Tensor]:
    """Levels in fp32 and in the memory layout that `PyramidRoIAlign` reads: once, since both heads read whole maps."""
    layout = torch.channels_last if runs_compiled(levels[0]) else torch.contiguous_format
    return [maps.float().contiguous(memory_format=layout) for maps in levels]


def runs_compiled(maps: Tensor) -> bool:
    """Whether our loop takes these maps."""
    return maps.device.type == "cpu" and _loops() is not None


class _Align(torch.autograd.Function):
    """The compiled loop and its gradient with regard to the levels."""

    @staticmethod
    def forward(
        ctx: Any, rois: Tensor, level: Tensor, strides: tuple[int, ...], side: int, aligned: bool, *levels: Tensor
    ) -> Tensor:
        cells = torch.empty((len(rois), levels[0].shape[1], side, side))
        ctx.shapes, ctx.works = [maps.shape for maps in levels], []
        for index, (maps, stride) in enumerate(zip(levels, strides, strict=True)):
            chosen = torch.nonzero(level == index)[:, 0]
            taps = _taps(rois[chosen], 1 / stride, aligned, side, maps.shape)
            ctx.works.append((chosen.numpy(), *taps))
            _run_forward(maps.permute(0, 2, 3, 1).contiguous().numpy(), ctx.works[-1], cells.numpy())
        return cells

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        loops = _loops()
        assert loops is not None
        table = gradients[0].float().contiguous().numpy()
        found = []
        for (batch, channels, height, width), work in zip(ctx.shapes, ctx.works, strict=True):
            sums = torch.zeros((batch, height, width, channels))
            # On one thread: boxes overlap, and in any other order their sums would not be the same in each run.
            loops[1](*work, sums.numpy(), table)
            found.append(sums.permute(0, 3, 1, 2))
        return (None, None, None, None, None, *found)


def _run_forward(maps: NDArray[Any], work: tuple[NDArray[Any], ...], cells: NDArray[Any]) -> None:
    """Fill the cells of the boxes of one level; each thread takes some of them at a time."""
    loops = _loops()
    assert loops is not None
    forward = loops[0]
    starts = range(0, len(work[0]), ROIS)

    def take(part: int) -> None:
        forward(*(each[starts[part] : starts[part] + ROIS] for each in work), maps, cells)

    with Workers(min(torch.get_num_threads(), len(starts))) as workers:
        workers.run(take, len(starts))


def _taps(
    rois: Tensor, scale: float, aligned: bool, side: int, shape: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """What the loops sum: (N,) images, (N, 2, side, 4) rows and columns int64, and their weights float32.

    A cell has two samples along each axis, a sample the two pixels beside it; further than one pixel outside the map a
    sample is 0.
    """
    places, weights = [], []
    for low, length in ((2, shape[2]), (1, shape[3])):  # rows, then columns
        start = rois[:, low] * scale - (0.5 if aligned else 0.0)
        extent = (rois[:, low + 2] - rois[:, low]) * scale
        extent = extent if aligned else extent.clamp_min(1.0)
        steps = (torch.arange(SAMPLES * side) + 0.5) / (SAMPLES * side)
        place = start[:, None] + steps * extent[:, None]
        is_inside = (place >= -1) & (place <= length)
        place = place.clamp(0, length - 1)
        first = place.floor()
        share = place - first
        pair = torch.stack([first, (first + 1).clamp_max(length - 1)], dim=2).long()
        weight = torch.stack([1 - share, share], dim=2) * is_inside[..., None] / SAMPLES
        places.append(pair.view(-1, side, 2 * SAMPLES))
        weights.append(weight.view(-1, side, 2 * SAMPLES))
    return rois[:, 0].long().numpy(), torch.stack(places, 1).numpy(), torch.stack(weights, 1).numpy()


def _forward_loop(chosen: Any, images: Any, places: Any, weights: Any, maps: Any, cells: Any) -> None:
    side, taps, channels = places.shape[2], places.shape[3], maps.shape[3]
    total = np.empty((side, channels), np.float32)
    for number in range(len(chosen)):
        image, roi = images[number], chosen[number]
        for row in range(side):
            total[:] = 0.0
            for tap_y in range(taps):
                y, share = places[number, 0, row, tap_y], weights[number, 0, row, tap_y]
                for col in range(side):
                    for tap_x in range(taps):
                        x = places[number, 1, col, tap_x]
                        weight = share * weights[number, 1, col, tap_x]
                        for channel in range(channels):
                            total[col, channel] += weight * maps[image, y, x, channel]
            for channel in range(channels):
                for col in range(side):
                    cells[roi, channel, row, col] = total[col, channel]


def _backward_loop(chosen: Any, images: Any, places: Any, weights: Any, sums: Any, gradient: Any) -> None:
    side, taps, channels = places.shape[2], places.shape[3], sums.shape[3]
    given = np.empty((side, channels), np.float32)
    for number in range(len(chosen)):
        image, roi = images[number], chosen[number]
        for row in range(side):
            for channel in range(channels):
                for col in range(side):
                    given[col, channel] = gradient[roi, channel, row, col]
            for tap_y in range(taps):
                y, share = places[number, 0, row, tap_y], weights[number, 0, row, tap_y]
                for col in range(side):
                    for tap_x in range(taps):
                        x = places[number, 1, col, tap_x]
                        weight = share * weights[number, 1, col, tap_x]
                        for channel in range(channels):
                            sums[image, y, x, channel] += weight * given[col, channel]


@cache
def _loops() -> tuple[Any, Any] | None:
    forward, backward = compile_loop(_forward_loop), compile_loop(_backward_loop)
    return None if forward is None or backward is None else (forward, backward)
