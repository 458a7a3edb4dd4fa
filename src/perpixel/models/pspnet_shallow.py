"""Pyramid pooling over the first stages of an encoder: what segmentation-models-pytorch calls PSPNet.

    image -> encoder, its stages up to stride 8 -----+-- mean over 1x1 bins -- 1x1, no normalisation --+
                                                     +-- mean over 2x2 bins -- 1x1 --------------------+
                                                     +-- mean over 3x3 bins -- 1x1 --------------------+-- 1x1 -- 3x3
                                                     +-- mean over 6x6 bins -- 1x1 --------------------+
                                                     +-------------------------------------------------+

Zhao et al.'s network (pspnet.py) keeps all stages of its ResNet and dilates the last two; this one cuts them off, so
that it is small and fast, and sees little of the image but through the means.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import create_encoder
from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, classifier_normal_, he_normal_, resize_like
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import encoder_parts, fit_image, is_own_resnet, logits_of
from perpixel.models.pspnet import BINS, adaptive_mean

CARD = Card(
    title="PSPNet over the first stages, as in segmentation-models-pytorch",
    paper='After Zhao, Shi, Qi, Wang, Jia, "Pyramid scene parsing network", CVPR 2017, arXiv 1612.01105',
    counts=(Count("smp's, ResNet-34, one class", 1_501_217, num_classes=1, options={"encoder": "resnet34"}),),
    deviations=(
        "Another network than the paper's: no stages behind stride 8, no dilation, no auxiliary head, a 1x1 and a 3x3 "
        "convolution in the other order. It is here so that weights of segmentation-models-pytorch can be used.",
        "That library's ResNets keep the unused stages in their files; they are left out.",
    ),
)


class ShallowPSPNet(nn.Module):
    """Pyramid pooling over an encoder's stages up to stride 8, as segmentation-models-pytorch builds its PSPNet.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "resnet18" ... "resnet152", or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        variant: of the ResNet, "a", "b" or "c"; None takes timm's.
        depth: stages of the encoder, 2 to 5: down to stride 2 ** depth.
        width: channels behind the pyramid.
        norm: batch normalisation in the pyramid, but for its single bin, and behind it.
        dropout: of whole channels, before the classifier.
    Raises:
        InputError: an option out of range, or one that the encoder does not take.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet34",
        weights: str | Path | None = None,
        variant: str | None = "b",
        depth: int = 3,
        width: int = 512,
        norm: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"option width={width} of pspnet_shallow: it must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"option dropout={dropout} of pspnet_shallow: it is a probability, from 0 to below 1")
        self.encoder = create_encoder(
            encoder, in_channels=in_channels, weights=weights, depth=depth,
            variant=variant if is_own_resnet(encoder, variant) else None,
        )  # fmt: skip
        deepest = self.encoder.channels[-1]
        each = max(1, deepest // len(BINS))
        # The mean of the whole image is one value a channel, which cannot be normalised over a batch of one.
        self.branches = nn.ModuleList(ConvNormAct(deepest, each, 1, norm=norm and side > 1) for side in BINS)
        self.project = ConvNormAct(deepest + len(BINS) * each, width, 1, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 3, padding=1)
        for part in (self.branches, self.project):
            he_normal_(part, fan="out")
        classifier_normal_(self.classifier)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = fit_image(image, self.encoder)
        maps = self.encoder(fitted)[-1]
        means = [branch(adaptive_mean(maps, side)) for side, branch in zip(BINS, self.branches)]
        pyramid = torch.cat([*(resize_like(each, maps, align_corners=True) for each in means), maps], dim=1)
        scores = self.classifier(self.dropout(self.project(pyramid)))
        return logits_of(scores, fitted, image, align_corners=True)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in order."""
        bins = {f"bins {side}": branch for side, branch in zip(BINS, self.branches)}
        return encoder_parts(self.encoder) | bins | {"projection 1x1": self.project, "classifier": self.classifier}
