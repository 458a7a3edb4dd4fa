"""DeepLab v2: class scores from four dilated convolutions of growing rate, summed (ASPP), over a network at stride 8.

Chen, Papandreou, Kokkinos, Murphy, Yuille, "DeepLab: Semantic image segmentation with deep convolutional nets, atrous
convolution, and fully connected CRFs", PAMI 2018, arXiv 1606.00915.

                                +-- 3x3, rate 6  --+
    image -> ResNet, stride 8 --+-- 3x3, rate 12 --+-- sum -> class scores at stride 8 -> x8
     (conv4 dilation 2,         +-- 3x3, rate 18 --+
      conv5 dilation 4)         +-- 3x3, rate 24 --+

Over VGG16 each branch is fc6 (3x3, dilated) - fc7 - fc8. With `multi_scale` the whole runs on the image at scales 1,
0.75 and 0.5, with the same weights, and every class takes the largest of its three scores, cell by cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.encoders import Encoder, resnet_encoder
from perpixel.encoders.resnet import UNITS
from perpixel.errors import InputError
from perpixel.layers import classifier_normal_, he_normal_, pad_to_multiple, resize_like, resize_to
from perpixel.models.aspp import check_rates
from perpixel.models.card import Card, Count
from perpixel.models.deeplab_vgg import DeepLabVGG, load_thinned
from perpixel.models.dilated_encoder import encoder_parts
from perpixel.models.vgg import fc_layers

STRIDE = 8
FC_CHANNELS, DROPOUT = 1024, 0.5  # over VGG16
SCALES = (1.0, 0.75, 0.5)
SCALE_PARTS = 4  # the scales are quarters: sides of 32k + 1 are sides of 8j + 1 at every one

CARD = Card(
    title="DeepLab v2",
    paper=(
        'Liang-Chieh Chen, George Papandreou, Iasonas Kokkinos, Kevin Murphy, Alan Yuille, "DeepLab: Semantic image '
        'segmentation with deep convolutional nets, atrous convolution, and fully connected CRFs", PAMI 2018, '
        "arXiv 1606.00915"
    ),
    counts=(
        Count("ResNet-101, 21 classes", 44_048_532),
        Count("VGG16, 21 classes", 37_877_652, options={"backbone": "vgg16"}),
    ),
    scores=(
        "VOC 2012 val mIoU, ResNet-101 with multi-scale inputs and COCO: 76.35, with CRF 77.69; test 79.7",
        "Cityscapes test mIoU 70.4, PASCAL-Context 45.7, PASCAL-Person-Part 64.9",
    ),
    training=(
        "SGD of momentum 0.9, decay 5e-4, batch 10, crops of 321 pixels at scales 0.5 to 1.5, 20,000 steps, rate "
        "2.5e-4 (1 - step / 20,000)^0.9 (1e-3 over VGG16), 10 times that in the last layer, 20 times on its bias; "
        "multi_scale=True, a loss for every scale and one for the maximum; frozen_norm=True from ImageNet weights."
    ),
    deviations=(
        "multi_scale=True, with which the paper's best results are trained, is off unless asked for: it multiplies the "
        "work of every step and of every prediction by 1.8, and the paper reports its gain apart from that of ASPP.",
        "frozen_norm=True freezes statistics and affine parameters of batch normalisation, as the release; off unless "
        "asked for, since from random weights a network with frozen normalisation does not train.",
        "The ResNet is variant b, whose weights are common, not the paper's a; the stem's pool of variant a is padded "
        "by 1 here, as in the release.",
        "The image is padded with zeros, its mean colour, to sides of 8k + 1 (32k + 1 with multi_scale), where scores "
        "and pixels meet exactly; the release pads to 513 x 513 in the same way.",
        "Every loss is taken at full size on interpolated scores, not on labels sampled every 8 pixels.",
    ),
)


class SumASPP(nn.ModuleList):
    """(B, C, H, W) -> class scores (B, K, H, W): the sum of its branches' scores, no activation in between."""

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return reduce(torch.add, (branch(maps) for branch in self))


class DeepLabV2(nn.Module):
    """ResNet-101 or VGG16 at stride 8, class scores summed over four dilation rates (ASPP).

    image (B, C, H, W) of any size -> logits (B, K, H, W). In training with `multi_scale` a tuple: the logits of the
    maximum over scales, then those of each scale in turn, all (B, K, H, W).

    Args:
        backbone: "resnet18" ... "resnet152", or "vgg16".
        variant: of the ResNet: "b", "a" (the paper's Caffe network) or "c"; see `resnet_encoder`.
        weights: of the backbone: None, "imagenet" or a file. Over VGG16 every branch's fc6 and fc7 take evenly spaced
            taps and channels of the classifier's fully connected layers.
        rates: dilations of the branches; [2, 4, 8, 12] is the paper's ASPP-S, [12] its LargeFOV.
        multi_scale: run the image at every one of `scales` and take the maximum of each class score.
        scales: of the image, the first 1.
        frozen_norm: batch normalisation keeps its statistics and affine parameters in training; needs weights.
        align_corners: how images and scores are interpolated; True as Caffe did, which is exact here.
        fc_channels: of fc6 and fc7 over VGG16.
        dropout: after those.
    Raises:
        InputError: an option out of range, or weights that do not fit.
    """

    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        backbone: str = "resnet101",
        variant: str = "b",
        weights: str | Path | None = None,
        rates: Sequence[int] = (6, 12, 18, 24),
        multi_scale: bool = False,
        scales: Sequence[float] = SCALES,
        frozen_norm: bool = False,
        align_corners: bool = True,
        fc_channels: int = FC_CHANNELS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        _check(backbone, variant, rates, scales, frozen_norm, fc_channels, dropout)
        _check_used(backbone, multi_scale, scales, fc_channels, dropout)
        self.rates, self.align_corners, self.frozen_norm = list(rates), align_corners, frozen_norm
        self.scales = list(scales) if multi_scale else [1.0]
        self.aux_weights: tuple[float, ...] = (1.0,) * len(scales) if multi_scale else ()
        self.trunk: DeepLabVGG | Encoder
        if backbone == "vgg16":
            self.trunk = DeepLabVGG(in_channels)
            self.aspp = _vgg_aspp(self.trunk.out_channels, fc_channels, num_classes, rates, dropout)
            he_normal_(self, fan="out")
            for branch in self.aspp:
                classifier_normal_(branch.get_submodule("fc8"))  # type: ignore[arg-type]
            if weights is not None:
                load_thinned(self.trunk, list(self.aspp), weights)  # type: ignore[arg-type]
        else:
            self.trunk = _resnet(backbone, in_channels, variant, weights)
            self.aspp = _resnet_aspp(self.trunk.channels[-1], num_classes, rates)
        if frozen_norm:
            for part in self.trunk.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.requires_grad_(False)
        self.train()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, H, W) float -> logits (B, K, H, W), in multi-scale training (maximum, one for each scale)."""
        fitted = pad_to_multiple(image, STRIDE * (SCALE_PARTS if len(self.scales) > 1 else 1), 1)
        # Scale 1 runs last: `describe` shows the sizes of the last pass.
        scores = [self._scores(fitted, scale) for scale in reversed(self.scales)][::-1]
        fused = reduce(torch.maximum, (resize_like(each, scores[0], align_corners=self.align_corners)
                                       for each in scores))  # fmt: skip
        logits = self._logits(fused, fitted, image)
        if not (self.training and self.aux_weights):
            return logits
        return logits, *(self._logits(each, fitted, image) for each in scores)

    def train(self, mode: bool = True) -> DeepLabV2:
        """As in every module; frozen normalisation stays in evaluation mode, and nothing else in a ResNet has modes."""
        super().train(mode)
        if self.frozen_norm:
            self.trunk.eval()
        return self

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        if isinstance(self.trunk, Encoder):
            trunk = encoder_parts(self.trunk)
        else:
            trunk = dict(self.trunk.named_children())
        return trunk | {f"ASPP rate {rate}": branch for rate, branch in zip(self.rates, self.aspp)}

    def _scores(self, image: Tensor, scale: float) -> Tensor:
        """(B, C, H, W) -> class scores (B, K, h, w) of the image at `scale`, at stride 8 of that."""
        if scale != 1:
            image = resize_to(image, _scaled(image, scale, self.align_corners), align_corners=self.align_corners)
        maps = self.trunk(image)
        return self.aspp(maps[-1] if isinstance(maps, list) else maps)

    def _logits(self, scores: Tensor, fitted: Tensor, image: Tensor) -> Tensor:
        logits = resize_like(scores, fitted, align_corners=self.align_corners)
        return logits[..., : image.shape[-2], : image.shape[-1]]


def _scaled(image: Tensor, scale: float, align_corners: bool) -> tuple[int, int]:
    """The size at `scale`; 0.75 of 321 is 241 where corners stay on corners, since 320 steps become 240."""
    ends = 1 if align_corners else 0
    height, width = (max(1, round((side - ends) * scale) + ends) for side in image.shape[-2:])
    return height, width


def _resnet(name: str, in_channels: int, variant: str, weights: str | Path | None) -> Encoder:
    encoder = resnet_encoder(name, in_channels=in_channels, variant=variant, weights=weights, output_stride=STRIDE)
    if variant == "a":
        # The classifier's pool is not padded; DeepLab's is, so that cells lie on pixels and 321 becomes 41.
        encoder.net.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    return encoder


def _resnet_aspp(in_channels: int, num_classes: int, rates: Sequence[int]) -> SumASPP:
    aspp = SumASPP(nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates)
    for branch in aspp:
        classifier_normal_(branch)  # type: ignore[arg-type]
    return aspp


def _vgg_aspp(in_channels: int, channels: int, num_classes: int, rates: Sequence[int], dropout: float) -> SumASPP:
    aspp = SumASPP()
    for rate in rates:
        branch = fc_layers(in_channels, channels, 3, dilation=rate, padding=rate, dropout=dropout)
        branch.add_module("fc8", nn.Conv2d(channels, num_classes, 1))
        aspp.append(branch)
    return aspp


def _check(
    backbone: str,
    variant: str,
    rates: Sequence[int],
    scales: Sequence[float],
    frozen_norm: bool,
    fc_channels: int,
    dropout: float,
) -> None:
    if backbone != "vgg16" and backbone not in UNITS:
        raise InputError(f"option backbone={backbone!r} of deeplab_v2: choose {', '.join(UNITS)} or vgg16")
    if backbone == "vgg16" and (variant != "b" or frozen_norm):
        option = f"variant={variant!r}" if variant != "b" else "frozen_norm=true"
        raise InputError(f"option {option} of deeplab_v2 with backbone='vgg16': it is for ResNets: leave it out")
    check_rates("deeplab_v2", rates)
    if not scales or scales[0] != 1 or not all(0 < scale <= 2 for scale in scales):
        raise InputError(
            f"option scales={list(scales)} of deeplab_v2: give 1 first, then other scales, such as [1.0, 0.75, 0.5]"
        )
    if fc_channels < 1:
        raise InputError(f"option fc_channels={fc_channels} of deeplab_v2: it must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of deeplab_v2: it is a probability, from 0 to below 1")


def _check_used(backbone: str, multi_scale: bool, scales: Sequence[float], fc_channels: int, dropout: float) -> None:
    """Refuse options that this form of the network would not look at."""
    if not multi_scale and tuple(scales) != SCALES:
        raise InputError(f"option scales={list(scales)} of deeplab_v2 without multi_scale: add multi_scale=true")
    if backbone != "vgg16" and (fc_channels != FC_CHANNELS or dropout != DROPOUT):
        option = f"fc_channels={fc_channels}" if fc_channels != FC_CHANNELS else f"dropout={dropout}"
        raise InputError(f"option {option} of deeplab_v2 with backbone={backbone!r}: it is for vgg16: leave it out")
