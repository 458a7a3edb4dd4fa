"""MobileNetV3 as its authors cut it for segmentation: the features that open each stage, and the last one.

Howard et al., "Searching for MobileNetV3", ICCV 2019. The network is torchvision's, and so are the names of its
tensors. `create_encoder("torchvision/mobilenet_v3_large")` takes the *last* map of every stride instead; published
segmentation weights (LR-ASPP, DeepLab v3) need the first ones.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torchvision import models

from perpixel.encoders.encoder import Encoder
from perpixel.encoders.weights import copy_weights, download_torchvision, read_state_dict
from perpixel.errors import InputError


class MobileNetV3(nn.Module):
    """image (B, C, H, W) -> five maps at strides 2, 4, 8, 16 and the output stride.

    Children are torchvision's blocks "0", "1", ...; a map is taken behind the stem, behind every block that halves
    (or, dilated, would have halved), and behind the last one.
    """

    def __init__(self, name: str, in_channels: int, *, dilated: bool, depth: int) -> None:
        super().__init__()
        blocks = models.get_model(name, weights=None, dilated=dilated).features
        stem = blocks[0][0]
        if in_channels != 3:
            blocks[0][0] = nn.Conv2d(in_channels, stem.out_channels, 3, 2, 1, bias=False)
            nn.init.kaiming_normal_(blocks[0][0].weight, mode="fan_out")
        # The last strided block starts the coarsest stage, which is tapped at its end.
        strided = [number for number, block in enumerate(blocks) if getattr(block, "_is_cn", False)]
        self.taps = [0, *strided[:-1], len(blocks) - 1][:depth]
        for number, block in enumerate(blocks[: self.taps[-1] + 1]):
            self.add_module(str(number), block)
        self.channels = [int(blocks[number].out_channels) for number in self.taps]

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, H, W) -> [(B, channels[i], ~H / strides[i], ~W / strides[i])]."""
        features = []
        for number, block in enumerate(self.children()):
            image = block(image)
            if number in self.taps:
                features.append(image)
        return features


def mobilenet_v3_encoder(
    name: str, *, in_channels: int = 3, weights: str | Path | None = None, output_stride: int = 32, depth: int = 5
) -> Encoder:
    """MobileNetV3 as an encoder.

    Args:
        name: "mobilenet_v3_large" or "mobilenet_v3_small".
        weights: None; "imagenet" downloads torchvision's; or a file in torchvision's naming.
        output_stride: 16 (the last stage dilated) or 32.
        depth: features down to stride 2 ** depth, 2 to 5.
    Raises:
        InputError: another output stride, or weights that do not fit.
    """
    if output_stride not in (16, 32):
        raise InputError(f"output_stride {output_stride} of encoder '{name}': choose 16 or 32")
    net = MobileNetV3(name, in_channels, dilated=output_stride == 16, depth=depth)
    if weights is not None:
        _load(net, name, weights)
    strides = [2, 4, 8, 16, output_stride][:depth]
    return Encoder(name, net, net.channels, strides, takes_any_size=True)


def _load(net: MobileNetV3, name: str, weights: str | Path) -> None:
    given = download_torchvision(name) if weights == "imagenet" else read_state_dict(weights)
    state = {key.removeprefix("features."): value for key, value in given.items()}
    copy_weights(name, f"weights of '{name}'" if weights == "imagenet" else weights, state, net.state_dict())
