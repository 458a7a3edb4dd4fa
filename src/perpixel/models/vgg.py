"""VGG16 in parts: blocks of convolutions, and fully connected layers turned into convolutions.

Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, without batch
normalisation. Layers are named as in Caffe (conv1_1 ... fc7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

VGG16_WIDTH = 64
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_blocks(width: int = VGG16_WIDTH) -> list[list[int]]:
    """Channels of the convolutions of the five blocks, the first one's being `width`, the others in proportion."""
    return [[each * width // VGG16_WIDTH for each in widths] for widths in VGG16_BLOCKS]


def vgg_block(
    number: int,
    in_channels: int,
    widths: Sequence[int],
    *,
    padding: int,
    first_padding: int | None = None,
    dilation: int = 1,
    pool: nn.Module | None,
) -> nn.Sequential:
    """3x3 convolutions of `widths`, each with ReLU, and `pool`: (B, C, H, W) -> (B, widths[-1], H', W').

    Args:
        first_padding: of the first convolution, where it differs.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = in_channels
    for index, width in enumerate(widths, start=1):
        pad = first_padding if index == 1 and first_padding is not None else padding
        layers[f"conv{number}_{index}"] = nn.Conv2d(before, width, 3, padding=pad, dilation=dilation)
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
