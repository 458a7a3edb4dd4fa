"""LiteSeg: a deeper pyramid of dilated separable convolutions between two long skips, over a light backbone.

Emara, Abd El Munim, Abbas, "LiteSeg: A novel lightweight ConvNet for semantic segmentation", DICTA 2019,
arXiv 1912.06683, as in the authors' release.

    image -> backbone -------- deep -> DASPP -> resize --+
                 |                                       +-- concatenate -> 3x3 -> 3x3 -> 1x1 -> resize -> logits
                 +-- low (-> 1x1) -----------------------+

    DASPP:  +-- 1x1 ---------------------------+
            +-- 3x3, rate 3 -- 3x3 ------------+
            +-- 3x3, rate 6 -- 3x3 ------------+-- concatenate -- 1x1
    deep ---+-- 3x3, rate 9 -- 3x3 ------------+
            +-- global mean -- 1x1 -- spread --+
            +----------------------------------+

Every convolution but that of the global mean and the last one is separable: depthwise, then 1x1, with batch
normalisation behind the pair only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import Encoder
from perpixel.encoders.darknet19 import darknet19_encoder
from perpixel.encoders.mobilenet_v2 import mobilenet_v2_encoder
from perpixel.encoders.shufflenet import shufflenet_encoder
from perpixel.errors import InputError
from perpixel.layers import SeparableConv, classifier_normal_, he_normal_, resize_like
from perpixel.models.aspp import ImagePooling, check_rates
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import dilated_encoder, encoder_parts, feature_at, fit_image, logits_of

RATES = (3, 6, 9)
# Of each backbone of the paper: stride of the low map, and the channels to which it is reduced (0: taken as it is).
LOW_MAPS = {"mobilenetv2": (4, 0), "shufflenet": (8, 48), "darknet19": (4, 32)}
OTHER_LOW_MAP = (4, 48)

CARD = Card(
    title="LiteSeg",
    paper=(
        'Emara, Abd El Munim, Abbas, "LiteSeg: A novel lightweight ConvNet for semantic segmentation", DICTA 2019, '
        "arXiv 1912.06683"
    ),
    counts=(
        Count("MobileNetV2, 19 classes", 3_101_707, num_classes=19),
        Count("ShuffleNet, 19 classes", 1_971_451, num_classes=19, options={"encoder": "shufflenet"}),
        Count("Darknet-19, 19 classes", 20_545_459, num_classes=19, options={"encoder": "darknet19"},
              printed="20.55M"),
    ),
    scores=(
        "Cityscapes test: 67.81 mIoU (MobileNetV2), 65.17 (ShuffleNet), 70.75 (Darknet-19)",
    ),
    training=(
        "SGD with momentum 0.9, weight decay 5e-4, polynomial decay, batch 4, 100 epochs, cross-entropy summed over "
        "the pixels at a rate of 1e-7 (1e-8 for Darknet-19), many scales; the coarse labels of Cityscapes first, "
        "then the fine ones."
    ),
    deviations=(
        "The published 4.38M (MobileNetV2) and 3.51M (ShuffleNet) parameters include the unused ImageNet classifier of "
        "the backbone, 1,281,000 and 1,537,000 values; here there is none.",
        "Darknet-19 pads as its kernels need; the release pads three 1x1 convolutions too: legacy_padding=True.",
        "Darknet-19's pools round up, so that maps of odd images keep their last row and column.",
        "The low map decides the size of the sum; the release computes it as the image's size over 4 or 8, rounded up, "
        "which is the same for its backbones.",
        "The release builds its optimiser anew in every epoch, which forgets the momentum; do not copy that.",
        "Other backbones, for which nothing is published, reduce their map at stride 4 to 48 channels.",
        "The global mean has one value a channel and image, so training needs batches of two or more.",
    ),
)  # fmt: skip


class DASPP(nn.Module):
    """Deeper atrous spatial pyramid pooling: (B, C, H, W) -> (B, width, H, W).

    The branches with a rate have no activation between their two convolutions, that of rate 1 has none at all. The
    input itself is concatenated too, in front (the short residual).
    """

    def __init__(self, in_channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.rate1 = SeparableConv(in_channels, width, 1, activation=None)
        self.dilated = nn.ModuleDict(
            {
                f"rate{rate}": nn.Sequential(
                    SeparableConv(in_channels, width, 3, dilation=rate, activation=None), SeparableConv(width, width, 3)
                )
                for rate in rates
            }
        )
        self.image_pooling = ImagePooling(in_channels, width)
        self.project = SeparableConv(in_channels + (2 + len(rates)) * width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        views = [self.rate1(maps), *(branch(maps) for branch in self.dilated.values()), self.image_pooling(maps)]
        return self.project(torch.cat([maps, *views], dim=1))


class LiteSeg(nn.Module):
    """A light backbone, deeper dilated pyramid and a skip, all convolutions separable, for real time.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "mobilenetv2", "shufflenet" or "darknet19", the paper's; or a name for `create_encoder`.
        weights: of the encoder: None, a file, or, where a library has them, "imagenet".
        width: channels of the head.
        rates: dilations of the pyramid's 3x3 branches.
        legacy_padding: with "darknet19", pad as the authors' release does, for weights trained with it.
    Raises:
        InputError: an option out of range, or an encoder without a feature at stride 4.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "mobilenetv2",
        weights: str | Path | None = None,
        width: int = 96,
        rates: Sequence[int] = RATES,
        legacy_padding: bool = False,
    ) -> None:
        super().__init__()
        _check(encoder, width, rates, legacy_padding)
        self.encoder = _encoder(encoder, in_channels, weights, legacy_padding)
        stride, reduced = LOW_MAPS.get(encoder, OTHER_LOW_MAP)
        self.low = feature_at(self.encoder, stride, "liteseg")
        channels = self.encoder.channels[self.low]
        self.daspp = DASPP(self.encoder.channels[-1], width, rates)
        self.reduce: nn.Module = SeparableConv(channels, reduced, 1) if reduced else nn.Identity()
        self.conv1 = SeparableConv(width + (reduced or channels), width, 3)
        self.conv2 = SeparableConv(width, width, 3)
        self.score = nn.Conv2d(width, num_classes, 1)
        for part in (self.daspp, self.reduce, self.conv1, self.conv2):
            he_normal_(part, fan="in")
        classifier_normal_(self.score)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        low = features[self.low]
        maps = resize_like(self.daspp(features[-1]), low, align_corners=True)
        maps = torch.cat([maps, self.reduce(low)], dim=1)
        scores = self.score(self.conv2(self.conv1(maps)))
        return logits_of(scores, fitted, image, align_corners=True)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        daspp: dict[str, nn.Module] = {"DASPP rate 1": self.daspp.rate1}
        daspp |= {f"DASPP rate {name.removeprefix('rate')}": each for name, each in self.daspp.dilated.items()}
        daspp |= {"DASPP mean": self.daspp.image_pooling, "DASPP": self.daspp.project}
        low = {} if isinstance(self.reduce, nn.Identity) else {"reduce": self.reduce}
        return encoder_parts(self.encoder) | daspp | low | {
            "conv 1": self.conv1, "conv 2": self.conv2, "score": self.score
        }  # fmt: skip


def _encoder(name: str, in_channels: int, weights: str | Path | None, legacy_padding: bool) -> Encoder:
    if name == "mobilenetv2":
        return mobilenet_v2_encoder(in_channels, weights)
    if name == "shufflenet":
        return shufflenet_encoder(in_channels, weights)
    if name == "darknet19":
        return darknet19_encoder(in_channels, weights, legacy_padding=legacy_padding)
    return dilated_encoder("liteseg", name, in_channels=in_channels, weights=weights, output_stride=32, variant="b")


def _check(encoder: str, width: int, rates: Sequence[int], legacy_padding: bool) -> None:
    if width < 1:
        raise InputError(f"option width={width} of liteseg: it must be at least 1")
    check_rates("liteseg", rates)
    if len(set(rates)) != len(rates):
        raise InputError(f"option rates={list(rates)} of liteseg: give different dilations, such as [3, 6, 9]")
    if legacy_padding and encoder != "darknet19":
        raise InputError(f"option legacy_padding=True of liteseg with encoder={encoder!r}: only 'darknet19' has it")
