"""What dilated nets keep of VGG16: blocks of convolutions, and fully connected layers turned into convolutions.

Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, without batch
normalisation. Layers are named as in Caffe (conv1_1 ... fc7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def vgg_block(
    number: int, in_channels: int, widths: Sequence[int], *, padding: int, dilation: int = 1, pool: nn.Module | None
) -> nn.Sequential:
    """3x3 convolutions of `widths`, each with ReLU, and `pool`: (B, C, H, W) -> (B, widths[-1], H', W')."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = in_channels
    for index, width in enumerate(widths, start=1):
        layers[f"conv{number}_{index}"] = nn.Conv2d(before, width, 3, padding=padding, dilation=dilation)
        layers[f"relu{number}_{index}"] = nn.ReLU(inplace=True)
        before = width
    if pool is not None:
        layers[f"pool{number}"] = pool
    return nn.Sequential(layers)


def fc_layers(
    in_channels: int, channels: int, kernel: int, *, dilation: int, padding: int, dropout: float
) -> nn.Sequential:
    """fc6 (`kernel`, dilated) and fc7 (1x1), each with ReLU and dropout: (B, C, H, W) -> (B, channels, H', W')."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            fc6=nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation),
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout(dropout),
            fc7=nn.Conv2d(channels, channels, 1),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
        )
    )
