"""MobileNetV2 with a feature behind every group of blocks, not one a stride: some decoders use both of a stride.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted residuals and linear bottlenecks", CVPR 2018. The blocks
are torchvision's, so its weights fit.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from perpixel.encoders.encoder import Encoder
from perpixel.encoders.weights import copy_weights, download_torchvision, read_state_dict

# Of each group: name, where it ends in torchvision's list of blocks, channels, stride.
GROUPS = (
    ("group1", 2, 16, 2),
    ("group2", 4, 24, 4),
    ("group3", 7, 32, 8),
    ("group4", 11, 64, 16),
    ("group5", 14, 96, 16),
    ("group6", 17, 160, 32),
    ("group7", 18, 320, 32),
    ("last", 19, 1280, 32),
)


class MobileNetV2(nn.Module):
    """image (B, C, H, W) -> one map per group, fine to coarse.

    Args:
        with_last: end with the 1x1 convolution to 1280 channels.
    """

    def __init__(self, in_channels: int, *, with_last: bool) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2  # here, because it takes longer to import than torch

        blocks = mobilenet_v2(weights=None).features
        blocks[0][0] = nn.Conv2d(in_channels, 32, 3, 2, 1, bias=False)
        nn.init.kaiming_normal_(blocks[0][0].weight, mode="fan_out")
        start = 0
        for name, stop, _, _ in GROUPS if with_last else GROUPS[:-1]:
            self.add_module(name, blocks[start:stop])  # a slice keeps the numbers of its blocks
            start = stop

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) -> [(B, 16, H / 2, W / 2), (B, 24, H / 4, W / 4), ...]."""
        features, maps = [], image
        for group in self.children():
            maps = group(maps)
            features.append(maps)
        return features


def mobilenet_v2_encoder(in_channels: int = 3, weights: str | Path | None = None, *, with_last: bool = True) -> Encoder:
    """MobileNetV2 as an encoder with seven features (16, 24, 32, 64, 96, 160, 320 channels), or eight with the last.

    Args:
        weights: None, "imagenet" (torchvision's, downloaded) or a file in torchvision's naming.
    Raises:
        InputError: weights that are missing, damaged or of another network.
    """
    net = MobileNetV2(in_channels, with_last=with_last)
    if weights is not None:
        _load(net, weights)
    groups = GROUPS if with_last else GROUPS[:-1]
    channels, strides = [group[2] for group in groups], [group[3] for group in groups]
    return Encoder("mobilenetv2", net, channels, strides, takes_any_size=True)


def _load(net: MobileNetV2, weights: str | Path) -> None:
    is_download = weights == "imagenet"
    state = download_torchvision("mobilenet_v2") if is_download else read_state_dict(weights)
    # group2.3.conv.0.0.weight here is features.3.conv.0.0.weight there.
    wanted = {f"features.{name.partition('.')[2]}": value for name, value in net.state_dict().items()}
    copy_weights("mobilenetv2", "weights of 'mobilenetv2'" if is_download else weights, state, wanted)
