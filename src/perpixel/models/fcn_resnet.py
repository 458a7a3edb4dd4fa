"""A dilated ResNet with a fully convolutional head: torchvision's `fcn_resnet50` and `fcn_resnet101`.

    image -> ResNet, stages 3 and 4 dilated, stride 8 -> 3x3 to a quarter of the channels -> dropout -> 1x1 -> x8
                              |
                              +-- in training, where asked for: the same head on stage 3, loss weight 0.5

Of Long et al.'s FCN it has the name only: no skips, no crops, no transposed convolutions. For the paper's network see
fcn.py.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, classifier_normal_, he_normal_
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import (
    aux_feature,
    dilated_encoder,
    encoder_parts,
    fit_image,
    is_own_resnet,
    logits_of,
)

CARD = Card(
    title="FCN over a dilated ResNet",
    paper="torchvision's reference segmentation models; the dilation is of Yu, Koltun, Funkhouser, CVPR 2017 "
    "(arXiv 1705.09914), the head of Zhao et al.'s auxiliary branch (arXiv 1612.01105)",
    counts=(
        Count("ResNet-50, auxiliary head", 35_322_218, options={"aux": True}, printed="35,322,218"),
        Count("ResNet-101, auxiliary head", 54_314_346, options={"encoder": "resnet101", "aux": True},
              printed="54,314,346"),
        Count("ResNet-50", 32_957_013),
    ),
    scores=(
        "COCO val2017 with the 20 VOC classes, torchvision's weights: ResNet-50 mIoU 60.5, pixel accuracy 91.4",
        "the same: ResNet-101 63.7, 91.9",
    ),
    training="torchvision's references: SGD 0.9, lr 0.02 for 8 x 4 images (poly 0.9), decay 1e-4, crop 480, scale "
    "0.5-2.0 of 520, 30 epochs, auxiliary loss 0.5.",
    deviations=("Logits of the image's size come as one tensor, not in a dictionary.",),
)  # fmt: skip
AUX_WEIGHT = 0.5


class FCNHead(nn.Sequential):
    """(B, C, H, W) -> scores (B, K, H, W): 3x3 to C / 4 channels with normalisation and ReLU, dropout, 1x1."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1) -> None:
        middle = max(1, in_channels // 4)
        super().__init__(
            OrderedDict(
                conv=ConvNormAct(in_channels, middle, 3),
                dropout=nn.Dropout(dropout),
                classifier=nn.Conv2d(middle, num_classes, 1),
            )
        )
        he_normal_(self, fan="out")
        classifier_normal_(self.classifier)  # type: ignore[arg-type]


class FCNResNet(nn.Module):
    """Dilated ResNet with a 3x3 and a 1x1 convolution, as torchvision's FCN; not the paper's FCN.

    image (B, C, H, W) of any size -> logits (B, K, H, W); in training with `aux` (logits, auxiliary logits).

    Args:
        encoder: "resnet18" ... "resnet152", built as torchvision's; or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        output_stride: 8, 16 or 32.
        variant: of the ResNet; None takes timm's.
        dropout: of values, before the classifiers.
        aux: a second head on a ResNet's stage 3, or on another backbone's deepest map of stride 8 before the last one,
            in training.
        align_corners: how the scores are interpolated.
    Raises:
        InputError: an option out of range, or an encoder that cannot be dilated.
    """

    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet50",
        weights: str | Path | None = None,
        output_stride: int = 8,
        variant: str | None = "b",
        dropout: float = 0.1,
        aux: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"option dropout={dropout} of fcn_resnet: it is a probability, from 0 to below 1")
        self.encoder = dilated_encoder(
            "fcn_resnet", encoder, in_channels=in_channels, weights=weights, output_stride=output_stride,
            variant=variant, keep_first=True if is_own_resnet(encoder, variant) else None,
        )  # fmt: skip
        self.align_corners = align_corners
        self.head = FCNHead(self.encoder.channels[-1], num_classes, dropout)
        self.aux_weights: tuple[float, ...] = ()
        if aux:
            is_resnet = is_own_resnet(encoder, variant)
            self.aux_index = aux_feature(self.encoder, is_resnet=is_resnet, model="aux=true of fcn_resnet")
            self.aux_head = FCNHead(self.encoder.channels[self.aux_index], num_classes, dropout)
            self.aux_weights = (AUX_WEIGHT,)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, H, W) float -> logits (B, K, H, W), with the auxiliary ones in training."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        scores = [self.head(features[-1])]
        if self.training and self.aux_weights:
            scores.append(self.aux_head(features[self.aux_index]))
        logits = [logits_of(each, fitted, image, align_corners=self.align_corners) for each in scores]
        return logits[0] if len(logits) == 1 else tuple(logits)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in order."""
        return encoder_parts(self.encoder) | {"head 3x3": self.head[0], "head 1x1": self.head[2]}
