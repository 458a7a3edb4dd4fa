"""The parts of U-Net++: the first column, a node with its dense row, and the mean of several heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.layers import ConvNormAct, fit_like


def node_convs(in_channels: int, out_channels: int, *, norm: bool, dropout: float) -> nn.Sequential:
    """Two 3x3 convolutions, each with ReLU and dropout: (B, C, H, W) -> (B, K, H, W)."""
    return nn.Sequential(
        ConvNormAct(in_channels, out_channels, 3, norm=norm),
        nn.Dropout(dropout),
        ConvNormAct(out_channels, out_channels, 3, norm=norm),
        nn.Dropout(dropout),
    )


class Column(nn.Module):
    """x(0, 0) to x(n, 0), the contracting path: image (B, C, H, W) -> one map a row, fine to coarse.

    Attributes:
        channels: of each row.
        strides: 1, 2, 4, ...
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.channels = list(channels)
        self.strides = [2**row for row in range(len(channels))]
        before = [in_channels, *channels[:-1]]
        self.stages = nn.ModuleList(
            node_convs(old, new, norm=norm, dropout=dropout) for old, new in zip(before, channels)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) -> list of (B, channels[i], ~H / 2^i, ~W / 2^i)."""
        features = [self.stages[0](image)]
        for stage in self.stages[1:]:
            features.append(stage(F.max_pool2d(features[-1], 2)))
        return features


class Node(nn.Module):
    """x(i, j): the map below, upsampled, in front of the row so far, then two convolutions.

    Args:
        below: channels of x(i+1, j-1).
        row: channels of x(i, 0), ..., x(i, j-1) together; 0 beyond the finest row.
        factor: size of this row over that of the row below.
    """

    def __init__(
        self, below: int, row: int, out_channels: int, factor: int, *, norm: bool, up: str, dropout: float
    ) -> None:
        super().__init__()
        upsampled = below
        self.up: nn.Module = nn.Identity()
        if factor > 1 and up == "transposed":
            upsampled = out_channels
            self.up = nn.ConvTranspose2d(below, out_channels, factor, factor)
        elif factor > 1:
            align_corners = None if up == "nearest" else False
            self.up = nn.Upsample(scale_factor=factor, mode=up, align_corners=align_corners)
        self.convs = node_convs(upsampled + row, out_channels, norm=norm, dropout=dropout)

    def forward(self, below: Tensor, row: Sequence[Tensor]) -> Tensor:
        """below (B, C, H, W), row of (B, *, H', W') with H' about factor * H -> (B, K, H', W').

        Where a pool met an odd size the upsampled map lacks a row or column of pixels: zeros take its place.
        """
        maps = self.up(below)
        if row:
            maps = torch.cat([fit_like(maps, row[0]), *row], dim=1)
        return self.convs(maps)


def nested_nodes(
    channels: Sequence[int], strides: Sequence[int], ends: Sequence[int], *, norm: bool, up: str, dropout: float
) -> nn.ModuleDict:
    """x(i, j) for j > 0 and i + j < len(channels), by the names "x0_1", "x1_1", ..., in the order of computation.

    Args:
        channels, strides: of x(i, 0), fine to coarse.
        ends: channels of the last node of each row, fine to coarse; the others have those of x(i, 0).
    """

    def width(row: int, column: int) -> int:
        is_end = column > 0 and row + column == len(channels) - 1
        return ends[row] if is_end else channels[row]

    nodes = nn.ModuleDict()
    for column in range(1, len(channels)):
        for row in range(len(channels) - column):
            nodes[f"x{row}_{column}"] = Node(
                width(row + 1, column - 1),
                column * channels[row],
                width(row, column),
                strides[row + 1] // strides[row],
                norm=norm, up=up, dropout=dropout,
            )  # fmt: skip
    return nodes


def mean_probs_as_logits(logits: Sequence[Tensor]) -> Tensor:
    """Logits whose softmax (sigmoid where K is 1) is the mean of those of `logits`, each (B, K, H, W); float32.

    For several classes they are the logarithms of the mean probabilities, for one its log-odds.
    """
    stacked = torch.stack([each.float() for each in logits])
    if stacked.shape[2] == 1:
        return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)
    return stacked.log_softmax(2).logsumexp(0) - math.log(len(logits))
