"""DeepLab v3+: DeepLab v3's encoder and a small decoder that brings back the borders from a map at stride 4.

Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-decoder with atrous separable convolution for semantic image
segmentation", ECCV 2018.

    image -> encoder, dilated -> ASPP, 256 -> x4 -- concatenate -> 3x3 256 -> 3x3 256 -> 1x1 -> x4
                  |                                     |
               stride 4 -> 1x1 48 ----------------------+
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, classifier_normal_, he_normal_, resize_like
from perpixel.models.aspp import ASPP, check_rates, conv3x3, rates_at
from perpixel.models.card import Card, Count
from perpixel.models.deeplab_v3 import OUTPUT_STRIDES, PARALLEL_GRID, rescaled_rates
from perpixel.models.dilated_encoder import (
    dilated_encoder,
    encoder_parts,
    feature_at,
    fit_image,
    is_own_resnet,
    logits_of,
)

CARD = Card(
    title="DeepLab v3+",
    paper="Chen, Zhu, Papandreou, Schroff, Adam, \"Encoder-decoder with atrous separable convolution for semantic "
    "image segmentation\", ECCV 2018, arXiv 1802.02611",
    counts=(
        Count("ResNet-101, dense", 59_344_309),
        Count("ResNet-50, smp's head, one class", 26_677_585, num_classes=1,
              options={"encoder": "resnet50", "head": "smp", "separable": True}, printed="26.7M"),
    ),
    scores=(
        "VOC2012 val, Xception at stride 16 with decoder: mIoU 82.20 at one scale, without COCO",
        "VOC2012 test 87.8 with COCO, 89.0 with JFT; Cityscapes test 82.1",
    ),
    training="As DeepLab v3: SGD with poly 0.9, lr 0.007, crop 513, batch normalisation trained at stride 16.",
    deviations=(
        "3x3 convolutions are dense, as the paper has them over ResNet; `separable` makes them depthwise separable, "
        "as over Xception (encoder='xception65').",
        "head='smp' is that of segmentation-models-pytorch: one decoder convolution, one more behind the pyramid, "
        "separable without normalisation in between, rates 12, 24, 36 at stride 16.",
    ),
)  # fmt: skip
HEADS = ("paper", "smp")
DECODER_CONVS = 2
SMP_RATES = (12, 24, 36)


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 with a decoder that adds the features at stride 4.

    image (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        encoder: "resnet18" ... "resnet152", "xception65", or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        output_stride: of the deepest map: 16 or 8; 32 for backbones that cannot dilate.
        variant: of the ResNet, "a", "b" or "c"; None takes timm's.
        multi_grid: factors on the dilations of the last block's units; None is 1, 2, 4 over a ResNet with the paper's
            head, none elsewhere.
        rates: of the three 3x3 branches at `output_stride`; None is 6, 12, 18 at 16 and twice that at 8, in smp's
            head 12, 24, 36.
        channels: of the branches and of the decoder.
        low_channels: to which the features at stride 4 are reduced.
        separable: depthwise separable 3x3 convolutions in pyramid and decoder; in smp's head, whose decoder always is,
            in the pyramid.
        head: "paper", or "smp" for the network of segmentation-models-pytorch.
        dropout: behind the pyramid; None is 0, in smp's head 0.5.
        align_corners: how maps and scores are interpolated.
    Raises:
        InputError: an option out of range, or an encoder without features at stride 4.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet101",
        weights: str | Path | None = None,
        output_stride: int = 16,
        variant: str | None = "b",
        multi_grid: Sequence[int] | None = None,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        low_channels: int = 48,
        separable: bool = False,
        head: str = "paper",
        dropout: float | None = None,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        _check(head, output_stride, channels, low_channels, dropout)
        is_paper = head == "paper"
        if rates is None:
            rates = rates_at(output_stride) if is_paper else SMP_RATES
        check_rates("deeplab_v3_plus", rates)
        if is_paper and multi_grid is None and is_own_resnet(encoder, variant):
            multi_grid = PARALLEL_GRID
        self._rebuild: dict[str, Any] = {
            "in_channels": in_channels, "num_classes": num_classes, "encoder": encoder, "variant": variant,
            "multi_grid": multi_grid, "channels": channels, "low_channels": low_channels, "separable": separable,
            "head": head, "dropout": dropout, "align_corners": align_corners,
        }  # fmt: skip
        self.output_stride, self.rates, self.align_corners = output_stride, list(rates), align_corners
        self.encoder = dilated_encoder(
            "deeplab_v3_plus", encoder, in_channels=in_channels, weights=weights, output_stride=output_stride,
            variant=variant, multi_grid=multi_grid,
        )  # fmt: skip
        self.low_index = feature_at(self.encoder, 4, "deeplab_v3_plus")
        drop = dropout if dropout is not None else 0.0 if is_paper else 0.5
        deepest, low = self.encoder.channels[-1], self.encoder.channels[self.low_index]
        aspp = ASPP(deepest, channels, rates, separable=separable, inner_norm=is_paper, dropout=drop)
        self.neck = nn.Sequential(OrderedDict(aspp=aspp))
        if not is_paper:
            self.neck.add_module("refine", conv3x3(channels, channels, separable=True, inner_norm=False))
        self.low = ConvNormAct(low, low_channels, 1)
        self.decoder = _decoder(channels + low_channels, channels, separable, is_paper)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for part in (self.neck, self.low, self.decoder):
            he_normal_(part, fan="out")
        classifier_normal_(self.classifier)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        fine = self.low(features[self.low_index])  # (B, 48, H/4, W/4)
        coarse = resize_like(self.neck(features[-1]), fine, align_corners=self.align_corners)
        scores = self.classifier(self.decoder(torch.cat([coarse, fine], dim=1)))
        return logits_of(scores, fitted, image, align_corners=self.align_corners)

    @torch.no_grad()
    def with_output_stride(self, output_stride: int) -> DeepLabV3Plus:
        """A copy with the same weights at another output stride, all dilations rescaled; its mode is this one's.

        Raises:
            InputError: the encoder cannot take the stride, or the rates cannot be halved.
        """
        rates = rescaled_rates(self.rates, self.output_stride, output_stride, "deeplab_v3_plus")
        other = DeepLabV3Plus(**self._rebuild, rates=rates, output_stride=output_stride)
        other.load_state_dict(self.state_dict())
        return other.to(self.classifier.weight).train(self.training)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        neck = dict(self.neck.named_children())
        pyramid = neck.pop("aspp")
        assert isinstance(pyramid, ASPP)
        decoder = {f"decoder {name}": part for name, part in self.decoder.named_children()}
        head = {"low level 1x1": self.low} | decoder | {"classifier": self.classifier}
        return encoder_parts(self.encoder) | pyramid.stages() | neck | head


def _decoder(in_channels: int, channels: int, separable: bool, is_paper: bool) -> nn.Sequential:
    """The paper's two 3x3 convolutions, or smp's one."""
    made = nn.Sequential()
    for number in range(1, DECODER_CONVS + 1 if is_paper else 2):
        part = conv3x3(in_channels, channels, separable=separable or not is_paper, inner_norm=is_paper)
        made.add_module(f"conv{number}", part)
        in_channels = channels
    return made


def _check(head: str, output_stride: int, channels: int, low_channels: int, dropout: float | None) -> None:
    if head not in HEADS:
        raise InputError(f"option head={head!r} of deeplab_v3_plus: choose 'paper' or 'smp'")
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"option output_stride={output_stride!r} of deeplab_v3_plus: choose 8, 16 or 32")
    for option, value in (("channels", channels), ("low_channels", low_channels)):
        if value < 1:
            raise InputError(f"option {option}={value} of deeplab_v3_plus: it must be at least 1")
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of deeplab_v3_plus: it is a probability, from 0 to below 1")
