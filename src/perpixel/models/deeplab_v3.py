"""DeepLab v3: a dilated ResNet and atrous spatial pyramid pooling, or blocks in cascade with growing dilation.

Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image segmentation", 2017.

    image -> ResNet, last block with a multi-grid -> ASPP, 256 -> 1x1 -> bilinear to the image        (parallel)
    image -> ResNet -> block 5 -> block 6 -> block 7 -> 1x1 -> bilinear to the image                  (cascaded)

Trained at stride 16, evaluated at stride 8: `with_output_stride(8)` gives the same weights with every dilation doubled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perpixel.encoders import Encoder
from perpixel.encoders.resnet import BasicUnit, Bottleneck, residual_stage
from perpixel.errors import InputError
from perpixel.layers import ConvNormAct, classifier_normal_, he_normal_
from perpixel.models.aspp import ASPP, check_rates, rates_at
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import (
    aux_feature,
    dilated_encoder,
    encoder_parts,
    fit_image,
    is_own_resnet,
    logits_of,
)
from perpixel.models.fcn_resnet import AUX_WEIGHT, FCNHead

CARD = Card(
    title="DeepLab v3",
    paper="Chen, Papandreou, Schroff, Adam, \"Rethinking atrous convolution for semantic image segmentation\", 2017, "
    "arXiv 1706.05587",
    counts=(
        Count("ResNet-101, the same at every output stride", 58_040_661),
        Count("cascaded, ResNet-101, blocks 5 to 7", 82_706_517, options={"cascaded": True}),
        Count("torchvision's, ResNet-50 with its auxiliary head", 42_004_074,
              options={"encoder": "resnet50", "head": "torchvision", "aux": True}, printed="42,004,074"),
        Count("torchvision's, ResNet-101 with its auxiliary head", 60_996_202,
              options={"head": "torchvision", "aux": True}, printed="60,996,202"),
    ),
    scores=(
        "VOC2012 val, ResNet-101: mIoU 77.21 evaluated at stride 16, 78.51 at stride 8, 79.77 with scales and mirrors",
        "VOC2012 test 85.7 with COCO; Cityscapes test 81.3",
    ),
    training="SGD with poly 0.9, lr 0.007, batch 16, crop 513, BN decay 0.9997, 30k iterations at stride 16; then BN "
    "frozen, stride 8, lr 0.001, 30k more; scale 0.5-2, mirrors; logits are upsampled, labels are not shrunk.",
    deviations=(
        "head='torchvision' is torchvision's network: a 3x3 convolution before the classifier, stride 8, no "
        "multi-grid, first units of dilated stages not dilated, dropout 0.5, corners not aligned.",
        "The multi-grid exists in ResNets; other backbones go without.",
        "The cascade's blocks 5 to 7 keep their size, so their shortcuts are identities.",
    ),
)  # fmt: skip
HEADS = ("paper", "torchvision")
OUTPUT_STRIDES = (8, 16, 32)
PARALLEL_GRID, CASCADED_GRID = (1, 2, 4), (1, 2, 1)
CASCADED_BLOCKS = 3  # 5, 6 and 7


class DeepLabV3(nn.Module):
    """Dilated backbone, then atrous spatial pyramid pooling with image pooling.

    image (B, C, H, W) of any size -> logits (B, K, H, W); in training with `aux` (logits, auxiliary logits).

    Args:
        encoder: "resnet18" ... "resnet152", or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        output_stride: of the deepest map: 16, or 8 where head is "torchvision"; 32 for backbones that cannot dilate.
        variant: of the ResNet, "a", "b" or "c"; None takes timm's.
        multi_grid: factors on the dilations of the last block's units; None is the paper's 1, 2, 4 (cascaded 1, 2, 1)
            over a ResNet, none elsewhere.
        keep_first: first units of dilated stages keep the dilation before them; None means as in `head`.
        rates: of the three 3x3 branches at `output_stride`; None is 6, 12, 18 at 16 and twice that at 8.
        channels: of the branches.
        head: "paper", or "torchvision" with a 3x3 convolution more and what else torchvision does.
        cascaded: blocks 5, 6 and 7, copies of the last one with growing dilation, in place of the pyramid.
        separable: depthwise separable 3x3 branches; in torchvision's head without normalisation in between.
        dropout: behind the pyramid; None is 0, in torchvision's head 0.5.
        aux: an FCN head on a ResNet's stage 3, or on another backbone's deepest map of stride 8 before the last one, in
            training.
        align_corners: how scores are interpolated; None is true, in torchvision's head false.
    Raises:
        InputError: an option out of range, or one that the encoder cannot take.
    """

    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        *,
        encoder: str = "resnet101",
        weights: str | Path | None = None,
        output_stride: int | None = None,
        variant: str | None = "b",
        multi_grid: Sequence[int] | None = None,
        keep_first: bool | None = None,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        head: str = "paper",
        cascaded: bool = False,
        separable: bool = False,
        dropout: float | None = None,
        aux: bool = False,
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        is_paper = head == "paper"
        _check(head, output_stride, channels, dropout, cascaded, separable)
        output_stride = output_stride or (16 if is_paper else 8)
        rates = list(rates_at(output_stride) if rates is None else rates)
        check_rates("deeplab_v3", rates)
        is_resnet = is_own_resnet(encoder, variant)
        if is_paper and is_resnet and multi_grid is None:
            multi_grid = CASCADED_GRID if cascaded else PARALLEL_GRID
        if not is_paper and is_resnet and keep_first is None:
            keep_first = True
        self._rebuild: dict[str, Any] = {
            "in_channels": in_channels, "num_classes": num_classes, "encoder": encoder, "variant": variant,
            "multi_grid": multi_grid, "keep_first": keep_first, "channels": channels, "head": head,
            "cascaded": cascaded, "separable": separable, "dropout": dropout, "aux": aux,
            "align_corners": align_corners,
        }  # fmt: skip
        self.output_stride, self.rates = output_stride, rates
        self.align_corners = is_paper if align_corners is None else align_corners
        self.encoder = dilated_encoder(
            "deeplab_v3", encoder, in_channels=in_channels, weights=weights, output_stride=output_stride,
            variant=variant, multi_grid=multi_grid, keep_first=keep_first,
        )  # fmt: skip
        deepest = self.encoder.channels[-1]
        if cascaded:
            self.neck = cascaded_blocks(self.encoder, output_stride, multi_grid or (1,), is_resnet, variant or "b")
            self.classifier = nn.Conv2d(deepest, num_classes, 1)
        else:
            drop = dropout if dropout is not None else 0.0 if is_paper else 0.5
            aspp = ASPP(deepest, channels, rates, separable=separable, inner_norm=is_paper, dropout=drop)
            self.neck = nn.Sequential(OrderedDict(aspp=aspp))
            if not is_paper:
                self.neck.add_module("refine", ConvNormAct(channels, channels, 3))
            self.classifier = nn.Conv2d(channels, num_classes, 1)
        he_normal_(self.neck, fan="out")
        classifier_normal_(self.classifier)
        self.aux_weights: tuple[float, ...] = ()
        if aux:
            self.aux_index = aux_feature(self.encoder, is_resnet=is_resnet, model="aux=true of deeplab_v3")
            self.aux_head = FCNHead(self.encoder.channels[self.aux_index], num_classes)
            self.aux_weights = (AUX_WEIGHT,)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """image (B, C, H, W) float -> logits (B, K, H, W), with the auxiliary ones in training."""
        fitted = fit_image(image, self.encoder)
        features = self.encoder(fitted)
        scores = [self.classifier(self.neck(features[-1]))]
        if self.training and self.aux_weights:
            scores.append(self.aux_head(features[self.aux_index]))
        logits = [logits_of(each, fitted, image, align_corners=self.align_corners) for each in scores]
        return logits[0] if len(logits) == 1 else tuple(logits)

    @torch.no_grad()
    def with_output_stride(self, output_stride: int) -> DeepLabV3:
        """A copy with the same weights at another output stride, all dilations rescaled; its mode is this one's.

        Raises:
            InputError: the encoder cannot take the stride, the rates cannot be halved, or the auxiliary head would
                stand on another map.
        """
        rates = rescaled_rates(self.rates, self.output_stride, output_stride, "deeplab_v3")
        other = DeepLabV3(**self._rebuild, rates=rates, output_stride=output_stride)
        if self.aux_weights and other.aux_index != self.aux_index:
            raise InputError(
                f"output_stride {output_stride} of deeplab_v3 with aux=true and encoder '{self.encoder.name}': the "
                "auxiliary head would stand on another map: choose a ResNet with a variant, or build without aux"
            )
        other.load_state_dict(self.state_dict())
        return other.to(self.classifier.weight).train(self.training)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        neck = dict(self.neck.named_children())
        pyramid = neck.pop("aspp", None)
        head = pyramid.stages() | neck if isinstance(pyramid, ASPP) else neck
        return encoder_parts(self.encoder) | head | {"classifier": self.classifier}


def cascaded_blocks(
    encoder: Encoder, output_stride: int, multi_grid: Sequence[int], is_resnet: bool, variant: str
) -> nn.Sequential:
    """Blocks 5 to 7 over a ResNet, each with twice the dilation of the one before: (B, C, h, w) -> the same shape.

    Block 4 runs at dilation 2 at stride 16, 4 at stride 8.

    Raises:
        InputError: the encoder is another network.
    """
    if not is_resnet:
        raise InputError(
            f"option cascaded=true of deeplab_v3 with encoder='{encoder.name}': blocks 5 to 7 copy a ResNet's last "
            "block: choose 'resnet50' or another ResNet with a variant"
        )
    last = encoder.net.get_submodule("layer4")
    unit, channels = type(last[0]), encoder.channels[-1]  # type: ignore[index]
    assert issubclass(unit, (BasicUnit, Bottleneck))
    width = channels // 4 if unit is Bottleneck else channels
    grid = [multi_grid[min(number, len(multi_grid) - 1)] for number in range(len(last))]  # type: ignore[arg-type]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, CASCADED_BLOCKS + 1):
        dilation = 32 // output_stride * 2**number
        stage = residual_stage(
            unit, channels, width, stride=1, dilations=[dilation * factor for factor in grid], variant=variant
        )
        blocks[f"block{4 + number}"] = stage
    return nn.Sequential(blocks)


def rescaled_rates(rates: Sequence[int], old: int, new: int, model: str) -> list[int]:
    """Rates that reach as far at output stride `new` as `rates` at `old`.

    Raises:
        InputError: no such stride, or a rate that would not be a whole number.
    """
    if new not in OUTPUT_STRIDES:
        raise InputError(f"output_stride {new} of {model}: choose 8, 16 or 32")
    if any(rate * old % new for rate in rates):
        raise InputError(
            f"rates {list(rates)} of {model} at output_stride {old} have no whole numbers at {new}: "
            f"build the model with output_stride={new} and rates of your own"
        )
    return [rate * old // new for rate in rates]


def _check(
    head: str, output_stride: int | None, channels: int, dropout: float | None, cascaded: bool, separable: bool
) -> None:
    if head not in HEADS:
        raise InputError(f"option head={head!r} of deeplab_v3: choose 'paper' or 'torchvision'")
    if output_stride is not None and output_stride not in OUTPUT_STRIDES:
        raise InputError(f"option output_stride={output_stride!r} of deeplab_v3: choose 8, 16 or 32")
    if channels < 1:
        raise InputError(f"option channels={channels} of deeplab_v3: it must be at least 1")
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"option dropout={dropout} of deeplab_v3: it is a probability, from 0 to below 1")
    if cascaded and head != "paper":
        raise InputError(f"options cascaded=true and head={head!r} of deeplab_v3 exclude each other: leave one out")
    if cascaded and (separable or dropout is not None):
        option = "separable=true" if separable else f"dropout={dropout}"
        raise InputError(f"option {option} of deeplab_v3 with cascaded=true: it is for the pyramid: leave it out")
