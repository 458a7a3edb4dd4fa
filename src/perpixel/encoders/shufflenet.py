"""ShuffleNet (the first version, 8 groups): grouped 1x1 convolutions whose groups exchange channels.

Zhang, Zhou, Lin, Sun, "ShuffleNet: An extremely efficient convolutional neural network for mobile devices", CVPR 2018,
in the form whose ImageNet weights LiteSeg starts from: every convolution has a bias, and the first one neither
normalisation nor activation.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.encoders.encoder import Encoder
from perpixel.encoders.in_order import check_local, load_in_order

GROUPS = 8
STEM_WIDTH = 24
WIDTHS = (384, 768, 1536)  # of the three stages
UNITS = (4, 8, 4)


def shuffle(maps: Tensor, groups: int) -> Tensor:
    """(B, C, H, W) -> the same, the channels of all groups in turn: the first of each, the second of each, ..."""
    _, channels, height, width = maps.shape
    split = maps.reshape(-1, groups, channels // groups, height, width)
    return split.transpose(1, 2).reshape(-1, channels, height, width)


class ShuffleUnit(nn.Module):
    """1x1 in groups, shuffle, depthwise 3x3, 1x1 in groups, beside the identity: (B, C, H, W) -> (B, K, H / s, W / s).

    With stride 1 the identity is added; with stride 2 it is averaged over 3x3 and the result is put behind it.

    Args:
        groups: of the first convolution; 1 in the network's first unit, whose input has few channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        middle = out_channels // 4
        added = out_channels if stride == 1 else out_channels - in_channels
        self.compress = nn.Conv2d(in_channels, middle, 1, groups=groups)
        self.norm1 = nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle)
        self.norm2 = nn.BatchNorm2d(middle)
        self.expand = nn.Conv2d(middle, added, 1, groups=GROUPS)
        self.norm3 = nn.BatchNorm2d(added)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        residual = shuffle(F.relu(self.norm1(self.compress(maps))), GROUPS)
        residual = self.norm3(self.expand(self.norm2(self.depthwise(residual))))
        if self.stride == 1:
            return F.relu(maps + residual)
        return F.relu(torch.cat([F.avg_pool2d(maps, 3, 2, 1), residual], dim=1))


class ShuffleNet(nn.Module):
    """image (B, C, H, W) -> maps of 24, 384, 768, 1536 channels at strides 4, 8, 16, 32."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM_WIDTH, 3, 2, 1)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = STEM_WIDTH
        for number, (units, width) in enumerate(zip(UNITS, WIDTHS), start=2):
            first = ShuffleUnit(before, width, 2, 1 if number == 2 else GROUPS)
            rest = (ShuffleUnit(width, width, 1, GROUPS) for _ in range(units - 1))
            self.add_module(f"stage{number}", nn.Sequential(first, *rest))
            before = width
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> list[Tensor]:
        """See the class."""
        maps = self.maxpool(self.conv1(image))
        features = [maps]
        for number in range(2, 2 + len(UNITS)):
            maps = self.get_submodule(f"stage{number}")(maps)
            features.append(maps)
        return features


def shufflenet_encoder(in_channels: int = 3, weights: str | Path | None = None) -> Encoder:
    """ShuffleNet as an encoder.

    Args:
        weights: None, or a file of this network, in its own naming or with its tensors in order.
    Raises:
        InputError: weights="imagenet", or a file that does not fit.
    """
    check_local("shufflenet", weights)
    net = ShuffleNet(in_channels)
    if weights is not None:
        load_in_order(net, "shufflenet", weights)
    return Encoder("shufflenet", net, [STEM_WIDTH, *WIDTHS], [4, 8, 16, 32], takes_any_size=True)
