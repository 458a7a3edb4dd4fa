"""The stages of U-Net: two convolutions, the contracting path, one step of the expanding path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.layers import ConvNormAct, crop_like, fit_like


def double_conv(in_channels: int, middle: int, out_channels: int, *, norm: bool, padding: str) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU: (B, C, H, W) -> (B, K, H, W), or 4 pixels smaller where padding is "valid"."""
    pixels = 0 if padding == "valid" else 1
    return nn.Sequential(
        ConvNormAct(in_channels, middle, 3, padding=pixels, norm=norm),
        ConvNormAct(middle, out_channels, 3, padding=pixels, norm=norm),
    )


class ContractingPath(nn.Module):
    """The paper's left side: image (B, C, H, W) -> one map per stage, fine to coarse, each at half the size before.

    Attributes:
        channels: of each stage.
        strides: 1, 2, 4, ...
        multiple: the coarsest stride; sides must not be shorter.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, norm: bool, padding: str) -> None:
        super().__init__()
        self.channels = list(channels)
        self.strides = [2**level for level in range(len(channels))]
        self.multiple = self.strides[-1]
        before = [in_channels, *channels[:-1]]
        self.stages = nn.ModuleList(
            double_conv(old, new, new, norm=norm, padding=padding) for old, new in zip(before, channels)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) -> list of (B, channels[i], ~H / 2^i, ~W / 2^i)."""
        features = [self.stages[0](image)]
        for stage in self.stages[1:]:
            features.append(stage(F.max_pool2d(features[-1], 2)))
        return features


@dataclass(frozen=True)
class Step:
    """Sizes of one step of the expanding path. `skip` is an index into the features, None where there is none."""

    in_channels: int
    skip: int | None
    skip_channels: int
    middle: int
    out_channels: int
    factor: int


def paper_steps(channels: Sequence[int], up: str) -> list[Step]:
    """Steps over a contracting path of these channels: back through all of its stages, to its widths.

    Interpolation does not change the channels, so with it each step already ends with the next width.
    """
    steps = []
    entering = channels[-1]
    for level in range(len(channels) - 2, -1, -1):
        leaving = channels[level] if up == "transposed" else channels[max(level - 1, 0)]
        steps.append(Step(entering, level, channels[level], channels[level], leaving, 2))
        entering = leaving
    return steps


def encoder_steps(
    channels: Sequence[int], strides: Sequence[int], widths: Sequence[int], head_stride: int
) -> list[Step]:
    """Steps over an encoder's features, coarse to fine, ending at `head_stride`; the last width repeats if need be.

    Where the encoder has no feature of a size (ConvNeXt starts at stride 4) the step goes without.
    """
    targets = _targets(strides, head_stride)
    steps, entering, stride = [], channels[-1], strides[-1]
    for number, (target, skip) in enumerate(targets):
        leaving = widths[min(number, len(widths) - 1)]
        skip_channels = 0 if skip is None else channels[skip]
        steps.append(Step(entering, skip, skip_channels, leaving, leaving, stride // target))
        entering, stride = leaving, target
    return steps


def _targets(strides: Sequence[int], head_stride: int) -> list[tuple[int, int | None]]:
    """(stride, index of the feature there or None) of every step, halving at most once a step."""
    targets: list[tuple[int, int | None]] = []
    stride = strides[-1]
    for index in range(len(strides) - 2, -1, -1):
        if strides[index] < head_stride:
            break
        while stride > 2 * strides[index]:
            stride //= 2
            targets.append((stride, None))
        stride = strides[index]
        targets.append((stride, index))
    while stride > head_stride:
        stride //= 2
        targets.append((stride, None))
    return targets


class UpStage(nn.Module):
    """Upsample, concatenate the skip in front, two convolutions: (B, C, H, W) -> (B, K, 2H, 2W).

    A 2x2 transposed convolution brings the map to the stage's width; interpolation keeps its channels. A padded
    model fits the upsampled map to the skip (rows or columns of zeros at the end, where a pool met an odd size), an
    unpadded one cuts the skip's centre.
    """

    def __init__(self, step: Step, *, norm: bool, up: str, padding: str) -> None:
        super().__init__()
        self.skip, self.padding = step.skip, padding
        upsampled = step.in_channels
        self.up: nn.Module = nn.Identity()
        if step.factor > 1 and up == "transposed":
            upsampled = step.middle
            self.up = nn.ConvTranspose2d(step.in_channels, upsampled, step.factor, step.factor)
        elif step.factor > 1:
            self.up = nn.Upsample(scale_factor=step.factor, mode=up, align_corners=False if up == "bilinear" else None)
        self.convs = double_conv(
            upsampled + step.skip_channels, step.middle, step.out_channels, norm=norm, padding=padding
        )

    def forward(self, maps: Tensor, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """maps (B, C, H, W), all features, and the image, whose size no map passes -> (B, K, H', W')."""
        maps = self.up(maps)
        if self.skip is None:
            maps = maps[..., : image.shape[-2], : image.shape[-1]]
        else:
            skip = features[self.skip]
            skip, maps = (crop_like(skip, maps), maps) if self.padding == "valid" else (skip, fit_like(maps, skip))
            maps = torch.cat([skip, maps], dim=1)
        return self.convs(maps)
