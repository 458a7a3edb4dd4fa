"""What models of volumes share: sizes along three axes, and normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError

AXES = 3
NORMS = ("none", "batch", "instance")


def pad_for_pools(volume: Tensor, multiples: Sequence[int], *, has_norm: bool) -> Tensor:
    """Add zeros at the end of each axis of (B, C, D, H, W) until its side is a multiple.

    Zero is the mean of a normalised volume, and what the convolutions pad with anyway.

    Args:
        multiples: one an axis: the product of the strides along it.
        has_norm: normalisation needs two voxels at the deepest stage, so that a tiny volume becomes twice as wide.
    """
    ends = [-side % multiple for side, multiple in zip(volume.shape[-AXES:], multiples)]
    if has_norm and all(side <= multiple for side, multiple in zip(volume.shape[-AXES:], multiples)):
        ends[-1] += multiples[-1]
    return F.pad(volume, (0, ends[2], 0, ends[1], 0, ends[0])) if any(ends) else volume


def cut_volume(volume: Tensor, like: Tensor) -> Tensor:
    """The part of (B, C, D, H, W) from its first voxel on that has the size of `like`; a view."""
    depth, height, width = like.shape[-AXES:]
    return volume[..., :depth, :height, :width]


def cut_middle(volume: Tensor, like: Tensor) -> Tensor:
    """The part of (B, C, D, H, W) around its middle that has the size of `like`; a view."""
    for axis in range(-AXES, 0):
        volume = volume.narrow(axis, (volume.shape[axis] - like.shape[axis]) // 2, like.shape[axis])
    return volume


def enlarge(maps: Tensor, like: Tensor) -> Tensor:
    """Interpolate (B, C, D, H, W) trilinearly to the size of `like`, outer corners on each other."""
    return F.interpolate(maps, like.shape[-AXES:], mode="trilinear", align_corners=False)


def make_norm3d(kind: str, channels: int) -> nn.Module:
    """One of NORMS for (B, C, D, H, W) with a scale and a shift per channel; "none" changes nothing."""
    if kind == "batch":
        return BatchNorm3d(channels)
    return nn.InstanceNorm3d(channels, affine=True) if kind == "instance" else nn.Identity()


class BatchNorm3d(nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, (B, C, D, H, W) -> the same shape, with an InputError for one value per channel."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) -> the same shape, same dtype."""
        if self.training and input.numel() == input.shape[1]:
            raise InputError(
                "batch of 1 with a 1x1x1 feature map leaves batch normalisation one value per channel in training: "
                "use a larger volume or a larger batch"
            )
        return super().forward(input)
