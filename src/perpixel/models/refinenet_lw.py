"""Light-weight RefineNet: 1x1 convolutions where RefineNet has 3x3 ones, and no residual units.

Nekrasov, Shen, Reid, "Light-weight RefineNet for real-time semantic segmentation", BMVC 2018, arXiv 1810.03272, as in
the authors' release. Each block:

    tap -> 1x1 (-> 1x1) --+
    coarser block -> 1x1 -+ (sum at the tap's size) -> activation -> pooling chain of 1x1 convolutions

Over MobileNetV2 there are six taps, two at 1/32 and two at 1/16 summed behind their first 1x1; every block has 256
channels, the tap has no second 1x1, and the activation is ReLU6 instead of ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.encoders.mobilenet_v2 import mobilenet_v2_encoder
from perpixel.errors import InputError
from perpixel.layers import resize_like
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import dilated_encoder, encoder_parts, fit_image, logits_of
from perpixel.models.refinenet import ChainedPooling, normal_
from perpixel.models.taps import taps

MOBILENET = "mobilenetv2"
POOLINGS = 4
ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6}

CARD = Card(
    title="Light-weight RefineNet",
    paper=(
        'Nekrasov, Shen, Reid, "Light-weight RefineNet for real-time semantic segmentation", BMVC 2018, '
        "arXiv 1810.03272"
    ),
    counts=(
        Count("ResNet-50, 21 classes", 27_357_525, printed="27M"),
        Count("ResNet-101, 21 classes", 46_349_653, options={"encoder": "resnet101"}, printed="46M"),
        Count("ResNet-152, 21 classes", 61_993_301, options={"encoder": "resnet152"}, printed="62M"),
        Count("MobileNetV2, 21 classes", 3_283_477, options={"encoder": MOBILENET}, printed="3.3M"),
    ),
    scores=(
        "Pascal VOC 2012 val: 78.5 mIoU (ResNet-50), 80.3 (ResNet-101), 82.1 (ResNet-152), 76.2 (MobileNetV2)",
        "NYUv2, 40 classes: 41.7 mIoU (ResNet-50), 43.6 (ResNet-101), 44.4 (ResNet-152)",
    ),
    training=(
        "The release, on NYUv2: SGD with batch 6, momentum 0.9, weight decay 1e-5, rate 5e-3 in the decoder and 5e-4 "
        "in the backbone, lowered twice, after 100 epochs each; crops of 500 pixels, scales 0.5 to 2, flips, frozen "
        "batch normalisation."
    ),
    deviations=(
        "Other backbones than MobileNetV2 take the decoder that the release has over ResNets.",
        "The release has ReLU over ResNets and ReLU6 over MobileNetV2: activation=None follows it.",
        "New layers start from normal(0, 0.01) as in the paper; the release's training script keeps torch's own start.",
    ),
)


class LightBlock(nn.Module):
    """Taps of one size [(B, C_i, H, W)], and the next coarser block's output -> (B, width, H, W).

    Args:
        tap_channels: of each tap.
        coarser: channels of the coarser block; 0 for the first block.
        adapt: a second 1x1 on the tap before the sum.
        activation: "relu" or "relu6".
    """

    def __init__(self, tap_channels: Sequence[int], width: int, coarser: int, *, adapt: bool, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.reduce = nn.ModuleList(nn.Conv2d(channels, width, 1, bias=False) for channels in tap_channels)
        self.adapt = nn.Conv2d(width, width, 1, bias=False) if adapt and coarser else nn.Identity()
        self.lower = nn.Conv2d(coarser, width, 1, bias=False) if coarser else None
        self.pooling = ChainedPooling(width, POOLINGS, kernel_size=1)

    def forward(self, taps: Sequence[Tensor], coarser: Tensor | None) -> Tensor:
        """See the class."""
        reduced = [reduce(tap) for reduce, tap in zip(self.reduce, taps)]
        maps = self.adapt(sum(reduced[1:], reduced[0]))
        if self.lower is not None and coarser is not None:
            maps = maps + resize_like(self.lower(coarser), maps, align_corners=True)
        return self.pooling(self.activation(maps))


class LightWeightRefineNet(nn.Module):
    """RefineNet with 1x1 convolutions and without residual units, for real time.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "resnet50" (101, 152), "mobilenetv2", or a name for `create_encoder`.
        variant: of a ResNet, "a", "b" or "c"; None takes timm's.
        weights: of the encoder: None, "imagenet" or a file.
        width: channels of the blocks; the coarsest has twice as many, but over "mobilenetv2".
        activation: before the pooling chains: "relu", "relu6", or None for what the release has over the encoder.
    Raises:
        InputError: an option out of range, or an encoder without a feature at every stride from 4 on.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet50",
        variant: str | None = "b",
        weights: str | Path | None = None,
        width: int = 256,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        is_mobile = encoder == MOBILENET
        activation = activation or ("relu6" if is_mobile else "relu")
        _check(width, activation)
        if is_mobile:
            self.encoder = mobilenet_v2_encoder(in_channels, weights, with_last=False)
        else:
            self.encoder = dilated_encoder(
                "refinenet_lw", encoder, in_channels=in_channels, weights=weights, output_stride=32, variant=variant
            )
        last = taps(self.encoder, "refinenet_lw")
        self.taps = all_at_strides(self.encoder.strides, last) if is_mobile else [[tap] for tap in last]
        self.blocks = nn.ModuleList()
        before = 0
        for level in self.taps:
            here = width if before or is_mobile else 2 * width
            channels = [self.encoder.channels[tap] for tap in level]
            self.blocks.append(LightBlock(channels, here, before, adapt=not is_mobile, activation=activation))
            before = here
        self.score = nn.Conv2d(before, num_classes, 3, padding=1)
        for part in (self.blocks, self.score):
            normal_(part)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        maps = None
        for level, block in zip(self.taps, self.blocks):
            maps = block([features[tap] for tap in level], maps)
        return logits_of(self.score(maps), fitted, image, align_corners=True)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        count = len(self.blocks)
        blocks = {f"block {count - number}": block for number, block in enumerate(self.blocks)}
        return encoder_parts(self.encoder) | blocks | {"score": self.score}


def all_at_strides(strides: Sequence[int], taps: Sequence[int]) -> list[list[int]]:
    """For every tap, all features at its stride.

    >>> all_at_strides([2, 4, 8, 16, 16, 32, 32], [6, 4, 2, 1])
    [[5, 6], [3, 4], [2], [1]]
    """
    return [[index for index, stride in enumerate(strides) if stride == strides[tap]] for tap in taps]


def _check(width: int, activation: str) -> None:
    if width < 1:
        raise InputError(f"option width={width} of refinenet_lw: it must be at least 1")
    if activation not in ACTIVATIONS:
        raise InputError(f"option activation={activation!r} of refinenet_lw: choose 'relu', 'relu6' or None")
