"""Darknet-19 without its last halving, as LiteSeg uses it: stride 16, the last five convolutions dilated.

Redmon, Farhadi, "YOLO9000: Better, faster, stronger", CVPR 2017.

The authors' release of LiteSeg pads three of the 1x1 convolutions by one pixel, which adds two rows and columns each,
and the three dilated 3x3 ones by one pixel instead of two, which takes two away: the last map has its right size again,
seen through borders of padding. `legacy_padding` builds that, for weights trained so.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from perpixel.encoders.encoder import Encoder
from perpixel.encoders.in_order import check_local, load_in_order
from perpixel.layers import ConvNormAct

# Kernel sizes and channels of each stage; a pool stands before every stage but the first and the last.
STAGES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((3, 32),),
    ((3, 64),),
    ((3, 128), (1, 64), (3, 128)),
    ((3, 256), (1, 128), (3, 256)),
    ((3, 512), (1, 256), (3, 512), (1, 256), (3, 512)),
    ((3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024)),
)
STRIDES = [1, 2, 4, 8, 16, 16]
DILATION = 2  # of the last stage
LEGACY_PADDED = ((4, 1), (4, 3), (5, 1))  # (stage, place in it) of the 1x1 convolutions that the release pads


def leaky_relu() -> nn.Module:
    """Darknet's activation."""
    return nn.LeakyReLU(0.1, inplace=True)


class Darknet19(nn.Module):
    """image (B, C, H, W) -> maps of 32, 64, 128, 256, 512, 1024 channels at strides 1, 2, 4, 8, 16, 16."""

    def __init__(self, in_channels: int, *, legacy_padding: bool) -> None:
        super().__init__()
        before = in_channels
        for number, layers in enumerate(STAGES):
            stage = nn.Sequential()
            if 0 < number < len(STAGES) - 1:
                stage.add_module("pool", nn.MaxPool2d(2, 2, ceil_mode=True))
            for place, (kernel_size, channels) in enumerate(layers):
                dilation = DILATION if number == len(STAGES) - 1 else 1
                padding = dilation * (kernel_size - 1) // 2
                if legacy_padding and (kernel_size == 3 or (number, place) in LEGACY_PADDED):
                    padding = 1
                conv = ConvNormAct(
                    before, channels, kernel_size, dilation=dilation, padding=padding, activation=leaky_relu
                )
                nn.init.kaiming_normal_(conv.conv.weight, a=0.1, mode="fan_out")
                stage.add_module(f"conv{place + 1}", conv)
                before = channels
            self.add_module(f"stage{number + 1}", stage)

    def forward(self, image: Tensor) -> list[Tensor]:
        """See the class."""
        features, maps = [], image
        for stage in self.children():
            maps = stage(maps)
            features.append(maps)
        return features


def darknet19_encoder(
    in_channels: int = 3, weights: str | Path | None = None, *, legacy_padding: bool = False
) -> Encoder:
    """Darknet-19 at stride 16 as an encoder.

    Args:
        weights: None, or a file of this network, in its own naming or with its tensors in order.
        legacy_padding: pad as the release of LiteSeg does.
    Raises:
        InputError: weights="imagenet", or a file that does not fit.
    """
    check_local("darknet19", weights)
    net = Darknet19(in_channels, legacy_padding=legacy_padding)
    if weights is not None:
        load_in_order(net, "darknet19", weights)
    channels = [layers[-1][1] for layers in STAGES]
    return Encoder("darknet19", net, channels, STRIDES, takes_any_size=True)
