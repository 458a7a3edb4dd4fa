"""Atrous spatial pyramid pooling of DeepLab v3 and v3+: five views of one map, side by side.

                 +-- 1x1 ------------------------------+
                 +-- 3x3, rate r1 ---------------------+
    maps --------+-- 3x3, rate r2 ---------------------+-- concatenate -- 1x1 -- maps
                 +-- 3x3, rate r3 ---------------------+
                 +-- global mean -- 1x1 -- spread -----+

Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017. Every convolution has batch
normalisation and ReLU. The ASPP of DeepLab v2 is another thing: a sum of class scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, SeparableConv

RATES_AT_16 = (6, 12, 18)


def rates_at(output_stride: int) -> list[int]:
    """The paper's rates: 6, 12, 18 at stride 16, twice that at 8, half at 32: the same reach in image pixels.

    >>> rates_at(8)
    [12, 24, 36]
    """
    return [rate * 16 // output_stride for rate in RATES_AT_16]


def check_rates(model: str, rates: Sequence[int]) -> None:
    """Refuse what is no list of dilations.

    Raises:
        InputError: no rate, or one below 1.
    """
    if not rates or not all(isinstance(rate, int) and rate >= 1 for rate in rates):
        raise InputError(f"option rates={list(rates)} of {model}: give dilations from 1 on, such as [6, 12, 18]")


class ImagePooling(nn.Module):
    """(B, C, H, W) -> (B, K, H, W): the image's mean, projected, the same in every cell."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.project = ConvNormAct(in_channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class. Bilinear interpolation of a single cell is that cell everywhere."""
        if self.training and maps.shape[0] == 1:
            raise InputError(
                "batch of 1: image pooling leaves batch normalisation one value per channel in training, whatever the "
                "image's size: use batches of 2 or more images"
            )
        return self.project(self.pool(maps)).expand(-1, -1, maps.shape[-2], maps.shape[-1])


class ASPP(nn.Module):
    """(B, C, H, W) -> (B, K, H, W).

    Args:
        channels: K, of every branch and of the result.
        rates: dilations of the 3x3 branches.
        separable: depthwise separable 3x3 convolutions (v3+ over Xception).
        inner_norm: in those, normalisation and ReLU behind the depthwise part too.
        dropout: of values, behind the projection.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        *,
        separable: bool = False,
        inner_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.rates = list(rates)
        branches: list[nn.Module] = [ConvNormAct(in_channels, channels, 1)]
        branches += [conv3x3(in_channels, channels, rate, separable, inner_norm) for rate in rates]
        self.branches = nn.ModuleList([*branches, ImagePooling(in_channels, channels)])
        self.project = ConvNormAct(len(self.branches) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return self.dropout(self.project(torch.cat([branch(maps) for branch in self.branches], dim=1)))

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists."""
        names = ["ASPP 1x1", *(f"ASPP 3x3 rate {rate}" for rate in self.rates), "ASPP image pooling"]
        return dict(zip(names, self.branches)) | {"ASPP projection": self.project}


def conv3x3(
    in_channels: int, out_channels: int, dilation: int = 1, separable: bool = False, inner_norm: bool = True
) -> nn.Module:
    """3x3 convolution, normalisation, ReLU: dense or depthwise separable; (B, C, H, W) -> (B, K, H, W)."""
    if separable:
        return SeparableConv(in_channels, out_channels, dilation=dilation, inner_norm=inner_norm)
    return ConvNormAct(in_channels, out_channels, 3, dilation=dilation)
