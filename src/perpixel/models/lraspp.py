"""LR-ASPP: the lightest pyramid, two branches on MobileNetV3 and one skip, all scored by 1x1 convolutions.

Howard et al., "Searching for MobileNetV3", ICCV 2019, section 6.4.

    image -> MobileNetV3, stride 16 --+-- 1x1 128, BN, ReLU ----- * -- x2 -- 1x1 -- + -- bilinear to the image
                   |                  +-- mean -- 1x1 -- sigmoid -+                 |
                stride 8 -------------------------------------------------- 1x1 ----+
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, classifier_normal_, he_normal_, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import dilated_encoder, encoder_parts, feature_at, fit_image, logits_of

CARD = Card(
    title="Lite R-ASPP",
    paper="Howard et al., \"Searching for MobileNetV3\", ICCV 2019, arXiv 1905.02244",
    counts=(Count("MobileNetV3-large, torchvision's", 3_221_538, printed="3,221,538"),),
    scores=(
        "Cityscapes val, MobileNetV3-large with halved last block, 128 filters, stride 16: mIoU 72.36 (paper)",
        "COCO val2017 with the 20 VOC classes, torchvision's weights: mIoU 57.9, pixel accuracy 91.2",
    ),
    training="torchvision's reference: SGD 0.9, lr 0.01 for 8 x 4 images (poly 0.9), decay 1e-4, crop 480, 30 epochs.",
    deviations=(
        "The weighting branch averages the whole map, as torchvision's; the paper uses a 49x49 pool of stride "
        "(16, 20), which is made for Cityscapes' size.",
        "The last block keeps its width, as torchvision's; the paper halves it.",
    ),
)  # fmt: skip


class LRASPP(nn.Module):
    """MobileNetV3 with a light head for small machines.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "mobilenet_v3_large", "mobilenet_v3_small", or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        output_stride: of the deepest map: 16, or 32.
        channels: of the two branches.
    Raises:
        InputError: an option out of range, or an encoder without features at stride 8.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "mobilenet_v3_large",
        weights: str | Path | None = None,
        output_stride: int = 16,
        channels: int = 128,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise InputError(f"option channels={channels} of lraspp: it must be at least 1")
        self.encoder = dilated_encoder(
            "lraspp", encoder, in_channels=in_channels, weights=weights, output_stride=output_stride, variant="b"
        )
        self.low_index = feature_at(self.encoder, 8, "lraspp")
        deepest, low = self.encoder.channels[-1], self.encoder.channels[self.low_index]
        self.project = ConvNormAct(deepest, channels, 1)
        self.weighting = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(deepest, channels, 1, bias=False), nn.Sigmoid()
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.low_classifier = nn.Conv2d(low, num_classes, 1)
        for part in (self.project, self.weighting):
            he_normal_(part, fan="out")
        for score in (self.classifier, self.low_classifier):
            classifier_normal_(score)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        fine, coarse = features[self.low_index], features[-1]
        maps = self.project(coarse) * self.weighting(coarse)
        scores = self.classifier(resize_like(maps, fine, align_corners=False)) + self.low_classifier(fine)
        return logits_of(scores, fitted, image, align_corners=False)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in order."""
        head = {"projection 1x1": self.project, "weighting": self.weighting, "low level scores": self.low_classifier}
        return encoder_parts(self.encoder) | head | {"classifier": self.classifier}
